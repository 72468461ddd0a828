"""Progress on disk, so that a killed run continues: the folder `<to>.partial`.

    plan.json        hash of the inputs and settings that the rest was made from, and when it began
    tokenizer.json   as in a token folder
    tokens.bin       tokens of the finished portions, in order
    loss_mask.bin    a byte for each of them, where not all count for the loss
    lengths.bin      int64: tokens of each finished document
    lock             held while a process writes
    journal.jsonl    about once a second, after a portion: totals so far (`Totals`)

Tokens and lengths are synced to disk before the journal line that counts them. So the last complete
line is valid, and a run that continues truncates the other files to it.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.folder import DOCUMENTS, LOSS_MASK, META, TOKENS, Meta, write_meta
from seq1f1b_jax.data.prepare.encode import Encoded
from seq1f1b_jax.data.prepare.portions import Portion

PLAN, JOURNAL, LENGTHS, LOCK = "plan.json", "journal.jsonl", "lengths.bin", "lock"
BLOCK_BYTES = 1 << 24
SAVED_SECONDS = 1.0  # minimum between two lines of the journal
BLOCK_DOCUMENTS = 1 << 20


@dataclass(frozen=True)
class Totals:
    """Sums over the finished portions.

    Attributes:
      num_portions: finished portions.
      num_tokens: tokens in tokens.bin.
      num_documents: documents in lengths.bin.
      open_length: tokens of a document that continues in the next portion; not yet in lengths.bin.
      num_bytes: UTF-8 bytes of the documents.
      num_empty: documents without text, left out.
      num_skipped: unreadable documents, left out.
      first_skipped: what was wrong with the first document left out.
      num_special: special tokens spelled in the documents.
      num_refused: conversations whose tokens that count are not certain, left out.
      num_counted: tokens that count as targets, where there is a mask.
    """

    num_portions: int = 0
    num_tokens: int = 0
    num_documents: int = 0
    open_length: int = 0
    num_bytes: int = 0
    num_empty: int = 0
    num_skipped: int = 0
    first_skipped: str = ""
    num_special: int = 0
    num_refused: int = 0
    num_counted: int = 0


@contextmanager
def open_partial(
    folder: Path, fingerprint: str, *, say: Callable[[str], None]
) -> Iterator[datetime]:
    """Create the folder or continue an earlier run's, locked against other processes.

    Args:
      folder: `<to>.partial`.
      fingerprint: hash of inputs and settings; a folder with another one is emptied.
      say: called with a line about what was found.

    Yields:
      When the first run began: a chat template may write the date.

    Raises:
      UserError: the folder cannot be created, holds other files, or is locked.
    """
    try:
        _refuse_foreign(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("a") as held:
            _lock(held, folder)
            yield _begin(folder, fingerprint, say)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or folder} ({error.strerror}); what is finished is "
            f"kept: free space, or give another folder with --to"
        ) from error


def _refuse_foreign(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names - {LOCK} and PLAN not in names:
        raise UserError(f"{folder} holds files that prepare did not write; move it away")


def _lock(held: IO[str], folder: Path) -> None:
    """Lock a file until this process ends, for whatever reason."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(
            f"{folder} is being written by another process; wait for it, or end it"
        ) from error


def _begin(folder: Path, fingerprint: str, say: Callable[[str], None]) -> datetime:
    """Keep files made from the same inputs and settings, remove all others."""
    if (began := _began(folder, fingerprint)) is not None:
        say(f"continuing {folder}")
        return began
    if (folder / PLAN).exists():
        say(f"inputs or settings changed: starting over, what was in {folder} is removed")
    for path in folder.iterdir():
        if path.name not in (LOCK, PLAN):  # the plan is replaced last: it marks the folder as ours
            path.unlink()
    began = datetime.now()
    plan = {"fingerprint": fingerprint, "began": began.isoformat()}
    (folder / PLAN).write_text(json.dumps(plan), encoding="utf-8")
    return began


def _began(folder: Path, fingerprint: str) -> datetime | None:
    """When the run began that left the folder; None: it had other inputs or settings."""
    try:
        plan = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        return datetime.fromisoformat(plan["began"]) if plan["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError):  # the run was killed while writing it
        return None


class TokenWriter:
    """Appends portions to a partial folder, from where an earlier run stopped.

    Args:
      folder: made by `open_partial`.
      token_dtype: `uint16` or `uint32`.
      masked: whether not all tokens count for the loss.

    Attributes:
      totals: sums so far.
    """

    def __init__(self, folder: Path, token_dtype: str, *, masked: bool = False):
        self._folder, self._itemsize = folder, np.dtype(token_dtype).itemsize
        self._names = (TOKENS, LENGTHS, *[LOSS_MASK] * masked)
        self.totals = self._last_valid_line()
        self._next_save = 0.0
        sizes = self._sizes(self.totals)
        self._files = {name: _open_at(folder / name, sizes[name]) for name in self._names}
        self._digests = {name: hashlib.sha256() for name in self._names if name != LENGTHS}
        self._journal = (folder / JOURNAL).open("a", encoding="utf-8")
        if self.totals.num_portions == 0:
            self._journal.truncate(0)
        self._hash_kept()

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for file in (*self._files.values(), self._journal):
            file.close()

    def add(self, portion: Portion, encoded: Encoded) -> None:
        """Append the next portion."""
        lengths = encoded.lengths.copy()
        if not portion.opens:  # it continues the open document
            lengths = np.array([self.totals.open_length + lengths.sum()])
        open_length = 0 if portion.closes else int(lengths.sum())
        lengths = lengths if portion.closes else lengths[:0]
        self._files[LENGTHS].write(lengths.astype("<i8").data)
        for name, part in {TOKENS: encoded.tokens, LOSS_MASK: encoded.counted}.items():
            if part is not None:
                self._files[name].write(part.data)
                self._digests[name].update(part.data)
        self.totals = _added(self.totals, encoded, lengths.size, open_length)
        if time.monotonic() >= self._next_save:
            self._save()

    def commit(self, to: Path, meta: Meta) -> Meta:
        """Write the document index and meta.json, and rename the folder.

        Raises:
          UserError: the name was taken meanwhile.
        """
        hashes = {name: digest.hexdigest() for name, digest in self._digests.items()}
        meta = replace(meta, sha256=hashes[TOKENS], loss_sha256=hashes.get(LOSS_MASK, ""))
        self._save()
        _write_offsets(self._folder, self.totals.num_documents)
        write_meta(self._folder / META, meta)
        try:
            os.rename(self._folder, to)
        except OSError as error:
            raise UserError(
                f"cannot rename {self._folder} to {to} ({error.strerror}); move what is there away "
                "and run the same command"
            ) from error
        for name in (PLAN, JOURNAL, LENGTHS, LOCK):
            (to / name).unlink()
        return meta

    def _save(self) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self._journal.write(json.dumps(asdict(self.totals)) + "\n")
        self._journal.flush()
        self._next_save = time.monotonic() + SAVED_SECONDS

    def _last_valid_line(self) -> Totals:
        """Totals of the last journal line whose tokens and lengths are all on disk."""
        on_disk = {name: _size(self._folder / name) for name in self._names}
        try:
            lines = (self._folder / JOURNAL).read_text(encoding="utf-8").splitlines()
        except OSError:
            return Totals()
        for line in reversed(lines):
            try:
                totals = Totals(**json.loads(line))
            except (ValueError, TypeError):  # incomplete
                continue
            sizes = self._sizes(totals)
            if all(sizes[name] <= size for name, size in on_disk.items()):
                return totals
        return Totals()

    def _sizes(self, totals: Totals) -> dict[str, int]:
        """Bytes of each file."""
        tokens = totals.num_tokens
        return {
            TOKENS: tokens * self._itemsize, LENGTHS: totals.num_documents * 8, LOSS_MASK: tokens
        }

    def _hash_kept(self) -> None:
        for name, digest in self._digests.items():
            with (self._folder / name).open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    digest.update(block)


def _added(totals: Totals, encoded: Encoded, num_documents: int, open_length: int) -> Totals:
    counted = 0 if encoded.counted is None else int(encoded.counted.sum())
    return Totals(
        num_portions=totals.num_portions + 1,
        num_tokens=totals.num_tokens + encoded.tokens.size,
        num_documents=totals.num_documents + num_documents,
        open_length=open_length,
        num_bytes=totals.num_bytes + encoded.num_bytes,
        num_empty=totals.num_empty + encoded.num_empty,
        num_skipped=totals.num_skipped + encoded.num_skipped,
        first_skipped=totals.first_skipped or encoded.first_skipped,
        num_special=totals.num_special + encoded.num_special,
        num_refused=totals.num_refused + encoded.num_refused,
        num_counted=totals.num_counted + counted,
    )


def _open_at(path: Path, size: int) -> BinaryIO:
    """Open for appending after the first `size` bytes; the rest is truncated."""
    file = path.open("ab")
    file.truncate(size)
    return file


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _write_offsets(folder: Path, num_documents: int) -> None:
    """Convert lengths.bin to documents.npy, a block at a time."""
    lengths = np.memmap(folder / LENGTHS, "<i8", mode="r", shape=(num_documents,))
    offsets = np.lib.format.open_memmap(
        folder / DOCUMENTS, mode="w+", dtype="<i8", shape=(num_documents + 1,)
    )
    for start in range(0, num_documents, BLOCK_DOCUMENTS):
        block = lengths[start : start + BLOCK_DOCUMENTS]
        offsets[start + 1 : start + 1 + block.size] = offsets[start] + np.cumsum(block)
    offsets.flush()
