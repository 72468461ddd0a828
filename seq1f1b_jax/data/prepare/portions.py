"""Files cut into parts that one process can hold, without changing any token.

JSON lines are cut after a line, parquet between row groups. A text file is one document: it is cut
between two words, before the space, if the tokenizer allows it, and the document continues in the
next portion; if a separator line is given, it is cut after such a line. The encoding process reads
these parts.

What can only be read from the beginning (compressed files, JSON arrays, CSV) is read once, by one
process, which passes the content on; compressed files are cut where uncompressed ones would be.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.readers.arrays import array_documents, layout
from seq1f1b_jax.data.prepare.readers.arrow import batch_offsets
from seq1f1b_jax.data.prepare.readers.fields import Answered, Conversation, Document, Fields
from seq1f1b_jax.data.prepare.readers.hub import HubSet, hub_documents
from seq1f1b_jax.data.prepare.readers.sources import (
    ARROW,
    CSV,
    JSON,
    JSONL,
    PARQUET,
    InputFile,
)
from seq1f1b_jax.data.prepare.readers.streams import open_stream
from seq1f1b_jax.data.prepare.readers.tables import table_documents
from seq1f1b_jax.data.text import unreadable

PORTION_BYTES = 1 << 20
READ_BYTES = 1 << 16
RECORD_BYTES = 64  # overhead counted per record


class Portion(NamedTuple):
    """Part of a file.

    Attributes:
      path: the file.
      kind: kind of the file.
      start: first byte of the uncompressed file; for parquet, row group; for records, record.
      stop: end of the same, exclusive.
      opens: whether its first document begins in it.
      closes: whether its last document ends in it.
      num_bytes: bytes of the file, for progress.
      held: its bytes or documents, if already read.
      line: line of the file where it begins, counted from 0; None: not counted.
    """

    path: Path
    kind: str
    start: int
    stop: int
    opens: bool
    closes: bool
    num_bytes: int
    held: bytes | tuple[Document | UserError, ...] | None = None
    line: int | None = None


class Cut(NamedTuple):
    """Where to cut: after a match of `pattern`, which spans at most `num_bytes`."""

    pattern: re.Pattern[bytes]
    num_bytes: int


def cut_files(
    files: Sequence[InputFile], *, fields: Fields, separator: str | None, can_cut_text: bool
) -> Iterator[Portion]:
    """Cut files into portions, one after the other.

    The cuts depend only on the files and these settings. Little more than the current portion is
    in memory.

    Args:
      files: what to cut.
      fields: fields or columns that make a document.
      separator: line between the documents of a text file; None: a file is one document.
      can_cut_text: whether a document may be cut between two words.

    Raises:
      UserError: a file that cannot be read, or contradicts its name.
    """
    for file in files:
        yield from _cut_file(file, fields, separator, can_cut_text)


def separator_pattern(separator: str) -> re.Pattern[bytes]:
    """Matches a whole line and its newline."""
    return re.compile(rb"^" + re.escape(separator.encode()) + rb"\r?(?:\n|\Z)", re.MULTILINE)


def _cut_file(
    file: InputFile, fields: Fields, separator: str | None, can_cut_text: bool
) -> Iterator[Portion]:
    if file.kind == PARQUET:
        return _row_groups(file)
    if file.kind == ARROW:
        return _record_batches(file)
    if file.hub is not None:
        return _streamed(file, file.hub, fields)
    kind = layout(file) if file.kind == JSON else file.kind
    if isinstance(kind, UserError):
        return iter([Portion(file.path, JSON, 0, 1, True, True, file.num_bytes, held=(kind,))])
    if kind in (JSON, CSV):
        return _cut_records(file, kind, fields)
    file = file._replace(kind=kind)
    whole = kind == JSONL or separator is not None
    cut = _where(kind, separator, can_cut_text)
    return (_cut_stream if file.compression else _cut_bytes)(file, cut, whole=whole)


def _where(kind: str, separator: str | None, can_cut_text: bool) -> Cut | None:
    """Where content may be cut; None: nowhere."""
    if kind == JSONL:
        return Cut(re.compile(rb"\n"), 1)
    if separator is not None:
        # with the newline before it, since a search may begin inside a line
        line = re.compile(rb"\n" + re.escape(separator.encode()) + rb"\r?\n")
        return Cut(line, len(separator.encode()) + 3)
    if can_cut_text:
        # not at newlines: a run of them may be tokenized differently at the end of a text
        return Cut(re.compile(rb"[A-Za-z](?= [A-Za-z])"), 3)
    return None


def _cut_bytes(file: InputFile, cut: Cut | None, *, whole: bool) -> Iterator[Portion]:
    """Portions between cuts; each holds `whole` documents, or the file is one document."""
    start = 0
    for stop in () if cut is None else _cuts(file, cut):
        opens = whole or not start
        yield Portion(file.path, file.kind, start, stop, opens, whole, stop - start)
        start = stop
    num_bytes = file.num_bytes - start
    yield Portion(
        file.path, file.kind, start, file.num_bytes, whole or not start, True, num_bytes
    )


def _cuts(file: InputFile, cut: Cut) -> Iterator[int]:
    """The first cut after every `PORTION_BYTES`; reads only the bytes around it."""
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
        kept = seen[-cut.num_bytes :]  # a match may begin here
        dropped, seen = dropped + len(seen) - len(kept), kept
    return None


def _cut_stream(file: InputFile, cut: Cut | None, *, whole: bool) -> Iterator[Portion]:
    """The same portions for a compressed file, with their bytes."""
    start = line = counted = 0
    with open_stream(file.path, file.compression) as stream:
        for content, last in _read_to_cuts(stream.content, cut):
            position = file.num_bytes if last else stream.file.tell()
            yield Portion(
                file.path, file.kind, start, start + len(content), whole or not start,
                whole or last, position - counted, held=content, line=line,
            )
            start, counted = start + len(content), position
            line += content.count(b"\n")


def _read_to_cuts(content: BinaryIO, cut: Cut | None) -> Iterator[tuple[bytes, bool]]:
    """The content between cuts, and whether it is the last."""
    data = bytearray()
    while True:
        stop = _read_to_cut(content, data, cut)
        if stop is None or stop == len(data) and not _read_more(content, data):
            yield bytes(data), True
            return
        yield bytes(memoryview(data)[:stop]), False
        del data[:stop]


def _read_to_cut(content: BinaryIO, data: bytearray, cut: Cut | None) -> int | None:
    """Read to the first cut after `PORTION_BYTES`; None: there is none, all is read."""
    searched = PORTION_BYTES
    while True:
        if cut is not None and len(data) > searched:
            if match := cut.pattern.search(data, searched):
                return match.end()
            searched = max(searched, len(data) - cut.num_bytes)  # a match may begin there
        if not _read_more(content, data):
            return None


def _read_more(content: BinaryIO, data: bytearray) -> bool:
    block = content.read(READ_BYTES)
    data += block
    return bool(block)


def _cut_records(file: InputFile, kind: str, fields: Fields) -> Iterator[Portion]:
    """Portions of records that one process has to read, with their documents."""
    read = array_documents if kind == JSON else table_documents
    start = counted = 0
    with open_stream(file.path, file.compression) as stream:
        for held, last in _grouped(read(file.path, stream.content, fields)):
            stop, position = start + len(held), file.num_bytes if last else stream.file.tell()
            yield Portion(file.path, kind, start, stop, True, True, position - counted, held=held)
            start, counted = stop, position


def _grouped(
    documents: Iterator[Document | UserError],
) -> Iterator[tuple[tuple[Document | UserError, ...], bool]]:
    """Documents in groups of at least `PORTION_BYTES`, and whether a group is the last."""
    held, size = [], 0
    for document in documents:
        held.append(document)
        size += RECORD_BYTES + _size(document)
        if size >= PORTION_BYTES:
            yield tuple(held), False
            held, size = [], 0
    yield tuple(held), True


def _streamed(file: InputFile, hub: HubSet, fields: Fields) -> Iterator[Portion]:
    """Portions of a data set of the Hub, with their documents."""
    start = 0
    for held, _ in _grouped(hub_documents(hub, fields)):
        yield Portion(file.path, file.kind, start, start + len(held), True, True, 0, held=held)
        start += len(held)


def _record_batches(file: InputFile) -> Iterator[Portion]:
    """Record batches that lie together, at least `PORTION_BYTES` of them."""
    offsets = batch_offsets(file.path)
    if not offsets:
        raise UserError(f"{file.path} has 0 rows; take it out")
    start = counted = 0
    for at, (begin, stop) in enumerate(offsets):
        start = start or begin  # no batch is at 0: the schema comes first
        last = at + 1 == len(offsets)
        if last or stop - start >= PORTION_BYTES:
            position = file.num_bytes if last else stop
            yield Portion(file.path, ARROW, start, stop, True, True, position - counted)
            start, counted = 0, position


def _row_groups(file: InputFile) -> Iterator[Portion]:
    from seq1f1b_jax.data.prepare.readers.parquet import open_parquet

    with open_parquet(file.path) as opened:
        count = opened.num_row_groups
    if not count:
        raise UserError(f"{file.path} has 0 rows; take it out")
    edges = [file.num_bytes * group // count for group in range(count + 1)]
    for group, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        yield Portion(file.path, file.kind, group, group + 1, True, True, stop - start)


def _size(document: Document | UserError) -> int:
    """Characters of its texts."""
    if isinstance(document, Conversation):
        return sum(len(str(message.get("content"))) for message in document.messages)
    if isinstance(document, Answered):
        return sum(map(len, document))
    return len(document) if isinstance(document, str) else 0
