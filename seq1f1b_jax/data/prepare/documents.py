"""The documents of a portion, or what is wrong with them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.parquet import read_column
from seq1f1b_jax.data.prepare.portions import Portion, separator_pattern
from seq1f1b_jax.data.prepare.sources import JSONL, PARQUET
from seq1f1b_jax.data.text import check_text, unreadable

CURE = "correct it, or leave such documents out with --skip-bad"


def read_documents(
    portion: Portion, *, key: str, separator: str | None
) -> Iterator[str | UserError]:
    """Texts in their order, empty ones too; an error in the place of one that cannot be read.

    Args:
      portion: what to read.
      key: field of a JSON object, or column, that holds the text.
      separator: line between the documents of a text file.

    Raises:
      UserError: the file itself cannot be read, or has no such column.
    """
    if portion.kind == PARQUET:
        yield from _rows(portion, key)
        return
    content = _read(portion)
    if portion.kind == JSONL:
        yield from _lines(portion, content, key)
    elif separator is None:
        yield _decoded(portion.path, content, portion.start)
    else:
        yield from _separated(portion, content, separator_pattern(separator))


def _rows(portion: Portion, key: str) -> Iterator[str | UserError]:
    for row, text in read_column(portion.path, portion.start, key):
        fault = _fault(text) if isinstance(text, str) else ""
        if fault:
            at = f"{portion.path}: row {row} of row group {portion.start}"
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
    """Text, or the error; a zero byte is one, because it is the mark between documents."""
    try:
        check_text(path, content, offset=offset)
    except UserError as error:
        return error
    return content.decode()


def _separated(
    portion: Portion, content: bytes, pattern: re.Pattern[bytes]
) -> Iterator[str | UserError]:
    """What lies between separator lines; nothing follows the last one."""
    start = 0
    for match in pattern.finditer(content):
        yield _decoded(portion.path, content[start : match.start()], portion.start + start)
        start = match.end()
    if start < len(content):
        yield _decoded(portion.path, content[start:], portion.start + start)


def _lines(portion: Portion, content: bytes, key: str) -> Iterator[str | UserError]:
    before: int | None = None  # lines of the file before the portion, counted when needed
    for number, line in enumerate(content.split(b"\n")):
        if line.strip():
            text, fault = _field(line, key)
            if fault:
                before = _count_lines(portion) if before is None else before
                at = f"{portion.path}:{before + number + 1}"
                yield UserError(f"{at}: {fault}; {CURE}")
            else:
                yield text


def _field(line: bytes, key: str) -> tuple[str, str]:
    """The text of a line of JSON, or what is wrong with it."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return "", f"not UTF-8: byte {line[error.start]:#04x} at column {error.start + 1}"
    except json.JSONDecodeError as error:
        return "", f"not JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, deep nesting
        return "", f"not JSON that can be read: {' '.join(str(error).split())[:80]}"
    if not isinstance(record, dict):
        return "", f"a JSON {type(record).__name__}, not an object with the field {key!r}"
    if key not in record:
        return "", f"no field {key!r}, but {', '.join(map(repr, list(record)[:8])) or 'none'}"
    text = record[key]
    if not isinstance(text, str):
        return "", f"field {key!r} is {json.dumps(text)[:40]}, not text"
    return text, _fault(text)


def _fault(text: str) -> str:
    """What keeps a string from being text: half a surrogate pair, or a zero character."""
    if "\0" in text:
        return f"character {text.index(chr(0))} of the text is a zero character"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"character {error.start} of the text is half a surrogate pair"
    return ""


def _count_lines(portion: Portion) -> int:
    with portion.path.open("rb") as opened:
        left, count = portion.start, 0
        while left:
            block = opened.read(min(left, 1 << 20))
            if not block:
                break
            count, left = count + block.count(b"\n"), left - len(block)
    return count
