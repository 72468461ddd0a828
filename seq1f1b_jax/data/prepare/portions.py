"""Files cut into parts that one process can hold, at places where tokens do not notice.

JSONL is cut behind a line, parquet between row groups. A text file is one document: it is cut
between two words, before the space, if the tokenizer allows it, and the document goes on in the
next portion; with a line that separates documents it is cut behind such a line.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.sources import JSONL, PARQUET, InputFile
from seq1f1b_jax.data.text import unreadable

PORTION_BYTES = 1 << 20
READ_BYTES = 1 << 16


class Portion(NamedTuple):
    """Part of a file.

    Attributes:
      path: the file.
      kind: what it holds.
      start: first byte; of parquet, the row group.
      stop: end of its bytes; of parquet, the row group behind.
      opens: whether its first document begins in it.
      closes: whether its last document ends in it.
      num_bytes: of the file, for progress.
    """

    path: Path
    kind: str
    start: int
    stop: int
    opens: bool
    closes: bool
    num_bytes: int


class Cut(NamedTuple):
    """Where to cut: behind a match of `pattern`, which looks at `num_bytes` at most."""

    pattern: re.Pattern[bytes]
    num_bytes: int


def cut_files(
    files: Sequence[InputFile], *, separator: str | None, can_cut_text: bool
) -> list[Portion]:
    """Cut all files into portions; the cuts depend on nothing but the files and these settings.

    Args:
      files: what to cut.
      separator: line between the documents of a text file; None: a file is a document.
      can_cut_text: whether a document may be cut between two words.

    Raises:
      UserError: a file that cannot be read, or is not what its name says.
    """
    return [p for file in files for p in _cut_file(file, separator, can_cut_text)]


def separator_pattern(separator: str) -> re.Pattern[bytes]:
    """A line of its own, with the newline behind it."""
    return re.compile(rb"^" + re.escape(separator.encode()) + rb"\r?(?:\n|\Z)", re.MULTILINE)


def _cut_file(file: InputFile, separator: str | None, can_cut_text: bool) -> list[Portion]:
    if file.kind == PARQUET:
        return _row_groups(file)
    if file.kind == JSONL:
        return _cut_bytes(file, Cut(re.compile(rb"\n"), 1), whole=True)
    if separator is not None:
        # the newline before it belongs to the pattern: what is searched may begin inside a line
        line = re.compile(rb"\n" + re.escape(separator.encode()) + rb"\r?\n")
        return _cut_bytes(file, Cut(line, len(separator.encode()) + 3), whole=True)
    if can_cut_text:
        # not at newlines: a run of them that ends a text can be another token than within it
        return _cut_bytes(file, Cut(re.compile(rb"[A-Za-z](?= [A-Za-z])"), 3), whole=False)
    return [Portion(file.path, file.kind, 0, file.num_bytes, True, True, file.num_bytes)]


def _cut_bytes(file: InputFile, cut: Cut, *, whole: bool) -> list[Portion]:
    """Portions between cuts; documents are `whole` in each, or the file is one."""
    edges = [0, *_cuts(file, cut), file.num_bytes]
    last = len(edges) - 2
    return [
        Portion(
            file.path, file.kind, start, stop, whole or at == 0, whole or at == last, stop - start
        )
        for at, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True))
    ]


def _cuts(file: InputFile, cut: Cut) -> Iterator[int]:
    """The first place to cut behind every `PORTION_BYTES`; reads little but around these."""
    try:
        with file.path.open("rb") as opened:
            at = PORTION_BYTES
            while at < file.num_bytes:
                opened.seek(at)
                found = _search(opened, cut)
                if found is None or at + found >= file.num_bytes:
                    return
                yield at + found
                at += found + PORTION_BYTES
    except OSError as error:
        raise unreadable(file.path, error) from error


def _search(opened: BinaryIO, cut: Cut) -> int | None:
    """Bytes from here to the end of the next match."""
    seen, dropped = b"", 0
    while block := opened.read(READ_BYTES):
        seen += block
        if match := cut.pattern.search(seen):
            return dropped + match.end()
        kept = seen[-cut.num_bytes :]  # a match may have begun here
        dropped, seen = dropped + len(seen) - len(kept), kept
    return None


def _row_groups(file: InputFile) -> list[Portion]:
    from seq1f1b_jax.data.prepare.parquet import open_parquet

    with open_parquet(file.path) as opened:
        count = opened.num_row_groups
    if not count:
        raise UserError(f"{file.path} has 0 rows; take it out")
    share = file.num_bytes // count
    return [
        Portion(file.path, file.kind, group, group + 1, True, True, share) for group in range(count)
    ]
