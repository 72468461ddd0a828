"""Files that a run writes in its folder: its own, never what a link of that name leads to."""

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from seq1f1b_jax.config import UserError


class LineFile:
    r"""Adds lines to a file, each by one write, so that a kill cuts the last one at most.

    A write that fails, for lack of space say, is reported once and stops nothing: lines wait in
    memory until `catch_up` can write them. Half a line is removed.

    Args:
      path: of the file; its folder exists.
      say: receives the note.

    Raises:
      UserError: it cannot be opened, or is a link.

    Example:
      >>> from pathlib import Path
      >>> from tempfile import TemporaryDirectory
      >>> from seq1f1b_jax.host.files import LineFile
      >>> with TemporaryDirectory() as folder:
      ...     path = Path(folder, "lines")
      ...     lines = LineFile(path, say=print)
      ...     lines.add("one")
      ...     lines.close()
      ...     path.read_text()
      'one\n'
    """

    def __init__(self, path: Path, *, say: Callable[[str], None]):
        self._path, self._say = path, say
        self._handle = open_own(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        # a line that a killed process left unfinished is ended
        self._waiting = [b"\n"] if _is_cut(self._handle) else []
        self._full = self._reported = False

    def add(self, line: str) -> None:
        """Add a line now, or once there is room."""
        self._waiting.append(line.encode() + b"\n")
        if not self._full:
            self.catch_up()

    def catch_up(self) -> None:
        """Write the lines that wait, if they can be written."""
        while self._waiting:
            try:
                self._write(self._waiting[0])
            except OSError as error:
                self._fail(error)
                return
            del self._waiting[0]
        self._full = False

    def close(self) -> None:
        """Write what still waits, if it can be written, and close the file."""
        self.catch_up()
        os.close(self._handle)

    def _write(self, line: bytes) -> None:
        end = os.fstat(self._handle).st_size
        rest = line
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._handle, end)
            raise

    def _fail(self, error: OSError) -> None:
        self._full = True
        if not self._reported:
            self._reported = True
            self._say(
                f"note: cannot write {self._path} ({error.strerror}); the run continues, and its "
                "lines are retried with every checkpoint"
            )


def open_own(path: Path, flags: int) -> int:
    """Open a file of the run's own: a plain file, and no link.

    Returns:
      Its descriptor.

    Raises:
      UserError: it cannot be opened, or is something else.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # ENXIO: a socket
            raise _not_own(path) from error
        raise cannot_write(path, error) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _not_own(path)
    return handle


def is_own(path: Path) -> bool:
    """Whether there is a plain file of that name, and no link."""
    return path.is_file() and not path.is_symlink()


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; a link of that name makes room for it.

    Raises:
      UserError: the folder cannot be written.
    """
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # x: through no link
            file.write(content)
        flush_to_disk(temporary)
        os.replace(temporary, path)
        flush_to_disk(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error


def flush_to_disk(path: Path) -> None:
    """Make the kernel write a file or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def first_free(path: Path) -> Path:
    """The first of `<path>.1`, `<path>.2` ... that is not there.

    Example:
      >>> from pathlib import Path
      >>> first_free(Path("runs/x")).name
      'x.1'
    """
    number = 1
    while os.path.lexists(free := path.with_name(f"{path.name}.{number}")):
        number += 1
    return free


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error for a file that the system does not let us write."""
    reason = "Not a directory" if isinstance(error, FileExistsError) else error.strerror
    return UserError(
        f"cannot write {path} ({reason}); set train.output_dir to a folder that this user may write"
    )


def _not_own(path: Path) -> UserError:
    return UserError(
        f"{path} is a link, or not a file, and a run does not write through it; move it away"
    )


def _is_cut(handle: int) -> bool:
    """Whether the last line was left unfinished by a process that was killed."""
    size = os.fstat(handle).st_size
    return size > 0 and os.pread(handle, 1, size - 1) != b"\n"
