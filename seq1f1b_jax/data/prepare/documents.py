"""The documents of a portion, or what is wrong with them."""

import re
from collections.abc import Iterator
from pathlib import Path

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.portions import Portion, separator_pattern
from seq1f1b_jax.data.prepare.readers.arrays import BOM
from seq1f1b_jax.data.prepare.readers.arrow import read_batches
from seq1f1b_jax.data.prepare.readers.fields import CURE, json_field, text_fault
from seq1f1b_jax.data.prepare.readers.parquet import read_column
from seq1f1b_jax.data.prepare.readers.sources import ARROW, JSONL, PARQUET
from seq1f1b_jax.data.text import check_text, unreadable

_BLANK = re.compile(rb"\s*")


def read_documents(
    portion: Portion, *, key: str, separator: str | None
) -> Iterator[str | UserError]:
    """Texts in order, including empty ones; an error in place of one that cannot be read.

    Args:
      portion: what to read.
      key: field of a JSON object, or column of parquet, that holds the text.
      separator: line between the documents of a text file.

    Raises:
      UserError: the file itself cannot be read, or has no such column.
    """
    if isinstance(portion.held, tuple):
        yield from portion.held
        return
    if portion.kind in (PARQUET, ARROW):
        yield from _rows(portion, key)
        return
    content = _read(portion) if portion.held is None else portion.held
    if portion.kind == JSONL:
        yield from _lines(portion, content, key)
    elif separator is None:
        yield _decoded(portion.path, content, portion.start)
    else:
        yield from _separated(portion, content, separator_pattern(separator))


def _rows(portion: Portion, key: str) -> Iterator[str | UserError]:
    if portion.kind == ARROW:
        rows = read_batches(portion.path, portion.start, portion.stop, key)
        place = f"after byte {portion.start}"
    else:
        rows = read_column(portion.path, portion.start, key)
        place = f"of row group {portion.start}"
    for row, text in rows:
        fault = text_fault(text) if isinstance(text, str) else ""
        if fault:
            at = f"{portion.path}: row {row} {place}"
            yield UserError(f"{at}: {fault}; {CURE}")
        else:
            yield "" if text is None else text


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


def _lines(portion: Portion, content: bytes, key: str) -> Iterator[str | UserError]:
    """The text of every line that is not blank; lines may be large and are not copied."""
    view, before = memoryview(content), portion.line
    start = len(BOM) if portion.start == 0 and content.startswith(BOM) else 0
    number = 0
    while start < len(content):
        stop = content.find(b"\n", start)
        stop = len(content) if stop < 0 else stop
        number += 1
        if not _BLANK.fullmatch(content, start, stop):
            text, fault = json_field(view[start:stop], key)
            if fault:
                before = _count_lines(portion) if before is None else before
                yield UserError(f"{portion.path}:{before + number}: {fault}; {CURE}")
            else:
                yield text
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
