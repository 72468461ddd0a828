"""From the bytes of a plan file to rows of words, each with its position, whatever they mean."""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from io import StringIO
from os import PathLike
from typing import NamedTuple, NoReturn

from seq1f1b_jax.paths import one_line, resolve

MAX_BYTES = 16 * 2**20
"""Largest file that is read, a few million actions: more than a mistaken path should cost."""

_LABEL = re.compile(r"rank\s*(\d+)\s*:?", re.IGNORECASE)
_GROUP = re.compile(r"\([^()]*\)")


class Word(NamedTuple):
    """An action as written in the file: its letters, and its column, which counts from 1."""

    text: str
    column: int


class Header(NamedTuple):
    """The line of sizes, as `Plan.parse` wants it."""

    line: int
    text: str


class Row(NamedTuple):
    """A row of the file: its line, which counts from 1, and its words that are not waiting."""

    line: int
    label: str | None
    words: tuple[Word, ...]


def read_rows(path: str | PathLike[str]) -> tuple[Header | None, list[Row]]:
    """Read a plan file.

    A file that ends in `.csv`, or that holds a comma outside its comments, is a table with one cell
    per word, anything else a text with spaces between them.

    Args:
      path: as the user typed it.

    Returns:
      The line of sizes, if there is one, and the rows of ranks.

    Raises:
      ValueError: there is no such file, it is too large or not UTF-8, it is no table, or it holds
        no action. The message names the file as it was typed, and the line.
    """
    text = _read_text(path)
    header, rows = _split(path, list(_cells(path, text)))
    if not any(row.words for row in rows):
        raise ValueError(
            f"plan file {one_line(path)} holds no action; write one row per rank, like"
            " 'rank 0  F0.0 B0.0' or, in a .csv, rank 0,F0.0,B0.0"
        )
    return header, rows


def is_table(path: str | PathLike[str]) -> bool:
    """Whether the ending of a file says that it is a table."""
    return os.fspath(path).lower().endswith(".csv")


def position_of(path: str | PathLike[str], row: Row, index: int) -> str:
    """Write the position of a word of a row; after the last one, the end of the line."""
    if index < len(row.words):
        return f"{one_line(path)}, line {row.line}, column {row.words[index].column}"
    return f"{one_line(path)}, end of line {row.line}"


def fail(path: str | PathLike[str], line: int, reason: str) -> NoReturn:
    """Refuse a line of a file.

    Raises:
      ValueError: always.
    """
    raise ValueError(f"{one_line(path)}, line {line}: {reason}")


def _read_text(path: str | PathLike[str]) -> str:
    shown = one_line(path)
    try:
        with resolve(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"cannot read plan file {shown}: {reason}; check the path") from error
    if len(content) > MAX_BYTES:
        raise ValueError(
            f"plan file {shown} is larger than {MAX_BYTES} bytes; a plan has one row of actions per"
            " rank, is this the right file?"
        )
    try:
        return content.decode("utf-8-sig")  # spreadsheets put a byte order mark in front
    except UnicodeDecodeError as error:
        raise ValueError(
            f"plan file {shown} is not UTF-8 text (byte {error.object[error.start]:#04x} at"
            f" {error.start}); export it as 'CSV UTF-8'"
        ) from error


def _cells(path: str | PathLike[str], text: str) -> Iterator[tuple[int, list[Word]]]:
    """Line and cells of every line that holds anything."""
    content = _without_comments(text)
    if not (is_table(path) or "," in content):
        for line, words in enumerate(text.splitlines(), start=1):
            cells = [Word(m[0], 1 + m.start()) for m in re.finditer(r"\S+", words)]
            if cells:
                yield line, cells
        return
    reader = csv.reader(StringIO(text, newline=""), delimiter=_delimiter(content), strict=True)
    try:
        for row in reader:
            cells = [Word(cell.strip(), column) for column, cell in enumerate(row, start=1)]
            cells = [cell for cell in cells if cell.text]
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        fail(path, reader.line_num, f"{error}; write one action per cell, like F2.1")


def _without_comments(text: str) -> str:
    return "".join(line for line in text.splitlines() if not line.lstrip('" ').startswith("#"))


def _delimiter(content: str) -> str:
    """A comma; spreadsheets of some countries write semicolons. Those in brackets are a cell's."""
    return max(",;\t", key=_GROUP.sub("", content).count)


def _split(
    path: str | PathLike[str], lines: Sequence[tuple[int, list[Word]]]
) -> tuple[Header | None, list[Row]]:
    """The line of sizes, if there is one, and the rows."""
    header, rows = None, []
    for line, cells in lines:
        content = " ".join(cell.text for cell in cells)
        if "ranks=" in content or "stages=" in content:
            if header is not None or rows:
                fail(path, line, f"{content!r} comes after other rows; put the sizes first")
            header = Header(line, content.lstrip("# "))
        elif not content.startswith("#"):
            rows.append(_row(line, cells))
    return header, rows


def _row(line: int, cells: list[Word]) -> Row:
    label = None
    for count in (1, 2):  # "rank 0" is one cell of a table and two words of a text
        match = _LABEL.fullmatch(" ".join(cell.text for cell in cells[:count]))
        if match is not None:
            label, cells = match[1], cells[count:]
            break
    return Row(line, label, tuple(_words(cells)))


def _words(cells: Sequence[Word]) -> Iterator[Word]:
    """Actions without what the drawings add: dots, dashes, marks, and `+` before a `W`."""
    for text, column in cells:
        for part in text.split("+"):
            word = part.strip("-<>. ")
            if word:
                yield Word(word, column)
