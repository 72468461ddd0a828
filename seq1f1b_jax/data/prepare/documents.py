"""The documents of a portion, or what is wrong with them."""

import re
from collections.abc import Iterator
from pathlib import Path

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.portions import Portion, separator_pattern
from seq1f1b_jax.data.prepare.readers.arrays import BOM
from seq1f1b_jax.data.prepare.readers.arrow import read_batches
from seq1f1b_jax.data.prepare.readers.fields import (
    CURE,
    Conversation,
    Document,
    Fields,
    document_of,
    json_document,
)
from seq1f1b_jax.data.prepare.readers.parquet import read_columns
from seq1f1b_jax.data.prepare.readers.sources import ARROW, JSONL, PARQUET
from seq1f1b_jax.data.text import check_text, unreadable

_BLANK = re.compile(rb"\s*")


def read_documents(
    portion: Portion, *, fields: Fields, separator: str | None
) -> Iterator[Document | UserError]:
    """Documents in order, including empty ones; an error in place of one that cannot be read.

    Args:
      portion: what to read.
      fields: of a JSON object, or columns of parquet, that make a document.
      separator: line between the documents of a text file.

    Raises:
      UserError: the file itself cannot be read, or has no such column.
    """
    if isinstance(portion.held, tuple):
        yield from portion.held
        return
    if portion.kind in (PARQUET, ARROW):
        yield from _rows(portion, fields)
        return
    content = _read(portion) if portion.held is None else portion.held
    if portion.kind == JSONL:
        yield from _lines(portion, content, fields)
    elif separator is None:
        yield _decoded(portion.path, content, portion.start)
    else:
        yield from _separated(portion, content, separator_pattern(separator))


def place_of(portion: Portion, conversation: Conversation) -> str:
    """File and line, or element, or row, of a conversation."""
    if conversation.where:
        return conversation.where
    before = _count_lines(portion) if portion.line is None else portion.line
    return f"{portion.path}:{before + conversation.line}"


def _rows(portion: Portion, fields: Fields) -> Iterator[Document | UserError]:
    if portion.kind == ARROW:
        rows = read_batches(portion.path, portion.start, portion.stop, fields)
        place = f"after byte {portion.start}"
    else:
        rows = read_columns(portion.path, portion.start, fields)
        place = f"of row group {portion.start}"
    for row, values in rows:
        if isinstance(values, UserError):
            yield values
            continue
        where = f"{portion.path}: row {row} {place}"
        document, fault = document_of(values, fields)
        if isinstance(document, Conversation):
            document = document._replace(where=where)
        yield UserError(f"{where}: {fault}; {CURE}") if fault else document


def _read(portion: Portion) -> bytes:
    try:
        with portion.path.open("rb") as opened:
            opened.seek(portion.start)
            return opened.read(portion.stop - portion.start)
    except OSError as error:
        raise unreadable(portion.path, error) from error


def _decoded(path: Path, content: bytes, offset: int) -> str | UserError:
    """Text, or the error; a zero byte is one, because it separates documents."""
    try:
        check_text(path, content, offset=offset)
    except UserError as error:
        return error
    return content.decode()


def _separated(
    portion: Portion, content: bytes, pattern: re.Pattern[bytes]
) -> Iterator[str | UserError]:
    """The texts between separator lines; one at the end of the file starts no document."""
    start = 0
    for match in pattern.finditer(content):
        yield _decoded(portion.path, content[start : match.start()], portion.start + start)
        start = match.end()
    if start < len(content):
        yield _decoded(portion.path, content[start:], portion.start + start)


def _lines(
    portion: Portion, content: bytes, fields: Fields
) -> Iterator[Document | UserError]:
    """The document in every line that is not blank; lines may be large and are not copied."""
    view, before = memoryview(content), portion.line
    start = len(BOM) if portion.start == 0 and content.startswith(BOM) else 0
    number = 0
    while start < len(content):
        stop = content.find(b"\n", start)
        stop = len(content) if stop < 0 else stop
        number += 1
        if not _BLANK.fullmatch(content, start, stop):
            document, fault = json_document(view[start:stop], fields)
            if fault:
                before = _count_lines(portion) if before is None else before
                yield UserError(f"{portion.path}:{before + number}: {fault}; {CURE}")
            elif isinstance(document, Conversation):
                yield document._replace(line=number)
            else:
                yield document
        start = stop + 1


def _count_lines(portion: Portion) -> int:
    """Lines of the file before the portion."""
    with portion.path.open("rb") as opened:
        left, count = portion.start, 0
        while left:
            block = opened.read(min(left, 1 << 20))
            if not block:
                break
            count, left = count + block.count(b"\n"), left - len(block)
    return count
