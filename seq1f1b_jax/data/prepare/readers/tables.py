"""CSV and TSV: a header row, then records; some columns make a document."""

import csv
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.readers.fields import (
    CURE,
    Conversation,
    Document,
    Fields,
    cell_fault,
    document_of,
)


def table_documents(
    path: Path, content: BinaryIO, fields: Fields
) -> Iterator[Document | UserError]:
    r"""The document of every row; an error in place of one that cannot be read.

    Quoted fields may hold line breaks.

    Args:
      path: the file; its name distinguishes commas from tabs.
      content: UTF-8, with or without a byte order mark.
      fields: the columns.

    Raises:
      UserError: there is no such column or more than one, or a quote is misplaced, so the rest
        cannot be parsed.

    Example:
      >>> import io
      >>> from pathlib import Path
      >>> from seq1f1b_jax.data.prepare.readers.fields import Fields
      >>> from seq1f1b_jax.data.prepare.readers.tables import table_documents
      >>> content = io.BytesIO(b'id,text\n1,"two\nlines"\n')
      >>> list(table_documents(Path("a.csv"), content, Fields()))
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
        columns = {key: _column(path, header, key) for key in fields.keys}
        while True:
            begin = rows.line_num + 1
            row = _next(rows)
            if row is None:
                return
            if row:
                yield _document(f"{path}:{begin}", row, columns, fields, len(header))
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
        raise UserError(f"{path} has {what} {key!r} (its first row: {names}); name another one")
    return header.index(key)


def _document(
    where: str, row: list[str], columns: Mapping[str, int], fields: Fields, width: int
) -> Document | UserError:
    if len(row) != width:
        return UserError(f"{where}: {len(row)} fields, and the first row has {width}; {CURE}")
    cells = {key: row[column] for key, column in columns.items()}
    document, fault = document_of(cells, fields, fault_of=cell_fault)
    if isinstance(document, Conversation):
        document = document._replace(where=where)
    return UserError(f"{where}: {fault}; {CURE}") if fault else document
