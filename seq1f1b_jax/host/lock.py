"""One run per folder: a lock that ends with its process, however that ends."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seq1f1b_jax.config import UserError
from seq1f1b_jax.distributed import Group
from seq1f1b_jax.host.files import cannot_write, open_own

LOCK = "running.lock"
SHARED_SECONDS = 30.0
"""How long a network file system may take to show a new file to another host."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the folder of a run while it runs.

    The lock is the kernel's (`flock`), on a file that names its holder; it is gone when the
    process is, killed or not. The file stays, which means nothing. On network file systems that
    keep locks to one host, a second host is not seen.

    Raises:
      UserError: another run holds it, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder / LOCK, error) from error
    handle = open_own(folder / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        _take(handle, folder)
        yield
    finally:
        os.close(handle)


def check_shared(folder: Path, group: Group, *, seconds: float = SHARED_SECONDS) -> None:
    """Refuse a folder that is another one in this process than in process 0, which holds it.

    Every process writes its part of a checkpoint there; parts in several places are useless.

    Raises:
      UserError: what process 0 wrote is not here within `seconds`.
    """
    theirs = group.first("holder", lambda: (folder / LOCK).read_text(encoding="utf-8"))
    deadline = time.monotonic() + seconds
    while _text(folder / LOCK) != theirs:
        if time.monotonic() > deadline:
            raise UserError(
                f"train.output_dir={folder} of process {group.index} ({socket.gethostname()}, "
                f"{folder.resolve()}) is not the folder of process 0 ({_who(theirs)}); every "
                "process writes its part of a checkpoint, so name a folder on storage that all of "
                "them share"
            )
        time.sleep(0.1)
    group.barrier("shared")  # nobody begins what a refused process would leave half done


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def _take(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"another run is in {folder}: {_holder(handle)}; wait for it, stop it, or set another "
            "--train.output_dir"
        ) from error
    except OSError:  # a file system without locks: better unguarded than no run
        return
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.ctime()}
    with suppress(OSError):  # a full disk: the lock holds without a name
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(holder).encode(), 0)


def _holder(handle: int) -> str:
    return _who(os.pread(handle, 4096, 0))


def _who(text: str | bytes) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError):
        return "it has only just begun"
