"""CSV and TSV: a header row, then records; one column is the text."""

import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.readers.fields import CURE, cell_fault


def table_texts(path: Path, content: BinaryIO, key: str) -> Iterator[str | UserError]:
    r"""The text of every row; an error in place of one that cannot be read.

    Quoted fields may hold line breaks.

    Args:
      path: the file; its name distinguishes commas from tabs.
      content: UTF-8, with or without a byte order mark.
      key: name of the column.

    Raises:
      UserError: there is no such column or more than one, or a quote is misplaced, so the rest
        cannot be parsed.

    Example:
      >>> import io
      >>> from pathlib import Path
      >>> from seq1f1b_jax.data.prepare.readers.tables import table_texts
      >>> content = io.BytesIO(b'id,text\n1,"two\nlines"\n')
      >>> list(table_texts(Path("a.csv"), content, "text"))
      ['two\nlines']
    """
    tabs = ".tsv" in (suffix.lower() for suffix in path.suffixes[-2:])
    # strict: refuse what a spreadsheet would not write, instead of guessing
    rows = csv.reader(_lines(content), delimiter="\t" if tabs else ",", strict=True)
    begin = 1
    try:
        header = _next(rows)
        if header is None:
            return
        column = _column(path, header, key)
        while True:
            begin = rows.line_num + 1
            row = _next(rows)
            if row is None:
                return
            if row:
                yield _cell(f"{path}:{begin}", row, column, len(header))
    except csv.Error as error:
        raise UserError(f"{path}:{begin}: not CSV: {error}; correct it") from error


def _lines(content: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(content):
        yield line.decode("utf-8-sig" if number == 0 else "utf-8", "surrogateescape")


def _next(rows: Iterator[list[str]]) -> list[str] | None:
    with _long_fields():
        return next(rows, None)


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lift the library's limit on field length, which is global, while reading."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _column(path: Path, header: list[str], key: str) -> int:
    count = header.count(key)
    if count != 1:
        names = ", ".join(map(repr, header[:20])) or "nothing"
        what = f"{count} columns" if count else "no column"
        raise UserError(f"{path} has {what} {key!r} (its first row: {names}); name one with --key")
    return header.index(key)


def _cell(where: str, row: list[str], column: int, width: int) -> str | UserError:
    if len(row) != width:
        return UserError(f"{where}: {len(row)} fields, and the first row has {width}; {CURE}")
    fault = cell_fault(row[column])
    return UserError(f"{where}: {fault}; {CURE}") if fault else row[column]
