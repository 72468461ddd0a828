"""A plan that a user wrote: read from a file and checked, and written back.

As a table (`.csv`), one row per rank and one cell per action, from any spreadsheet:

    # 1f1b stages=2 microbatches=2 chunks=1
    rank 0,F0.0,F1.0,,B0.0,B1.0
    rank 1,,F0.0,B0.0,F1.0,B1.0

As text (any other suffix), what `Plan.text` or one of the drawings prints:

    rank 0  F0.0 F1.0 .... B0.0 B1.0
    rank 1  .... F0.0 B0.0 F1.0 B1.0

Only the order within a row counts: empty cells, dots and dashes are waiting. A line that starts
with `#` is a comment. The line with the sizes, comment or not, may be left out, as may `rank 0`:
then the sizes are those that the letters show, and the plan is called after the file.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from io import StringIO
from os import PathLike
from pathlib import Path
from typing import NamedTuple, NoReturn

from seq1f1b_jax.schedule.actions import Action
from seq1f1b_jax.schedule.grid import plan_of_rows
from seq1f1b_jax.schedule.plan import Plan, PlanError
from seq1f1b_jax.schedule.validate import validate

MAX_BYTES = 16 * 2**20
"""Largest file that is read, a few million actions: more than a mistaken path should cost."""

_LABEL = re.compile(r"rank\s*(\d+)\s*:?", re.IGNORECASE)


class _Word(NamedTuple):
    """An action as it stands in the file: its letters, and its column, which counts from 1."""

    text: str
    column: int


class _Header(NamedTuple):
    """The line of sizes, as `Plan.parse` wants it."""

    line: int
    text: str


class _Row(NamedTuple):
    """A row of the file: its line, which counts from 1, and its words that are not waiting."""

    line: int
    label: str | None
    words: tuple[_Word, ...]


def read_plan(path: str | PathLike[str]) -> Plan:
    """Read a plan and validate it.

    Args:
      path: of a UTF-8 file; `.csv` is read as a table (separated by commas, semicolons or tabs),
        anything else as text.

    Returns:
      A valid plan. Without a line of sizes its exchange is `parity`, or `lockstep` where ranks hold
      several stages.

    Raises:
      PlanError: the plan cannot run. The message names file and line and draws the grid.
      ValueError: there is no such file, it is too large or not UTF-8, or a cell cannot be read. The
        message names file, line and column.

    Example:
      >>> read_plan("mine.csv").num_stages  # doctest: +SKIP
      2
    """
    path = Path(path)
    text = _read_text(path)
    header, rows = _split(path, list(_cells(path, text)))
    _check_rows(path, rows)
    plan = _assemble(path, header, rows)
    num_actions = sum(len(row.words) for row in rows)
    if plan.num_virtual_stages > num_actions:  # before anything walks over all stages
        raise ValueError(
            f"plan file {path} speaks of {plan.num_virtual_stages} stages and holds {num_actions}"
            " actions; every stage runs every unit, so correct the number behind @ or in the sizes"
        )
    try:
        validate(plan)
    except PlanError as error:
        place = _where(path, rows[error.rank], error.index)
        raise PlanError(f"{place}: {error}", rank=error.rank, index=error.index) from None
    return plan


def write_plan(plan: Plan, path: str | PathLike[str]) -> None:
    """Write a plan so that `read_plan` gives an equal one.

    Args:
      plan: of any origin.
      path: `.csv` is written as a table, anything else as text. An existing file is replaced.

    Raises:
      ValueError: the file cannot be written.
    """
    path = Path(path)
    text = _table(plan) if _is_table(path) else plan.text() + "\n"
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"cannot write plan file {path}: {reason}; choose another path") from error


def _is_table(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _table(plan: Plan) -> str:
    header, *rows = plan.text().split("\n")
    cells = ("," + row.replace(" ", ",") if row != "-" else "" for row in rows)
    lines = (f"rank {rank}{row}" for rank, row in enumerate(cells))
    return "\n".join((f"# {header}", *lines, ""))


# From bytes to rows of cells.


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"cannot read plan file {path}: {reason}; check the path") from error
    if len(content) > MAX_BYTES:
        raise ValueError(
            f"plan file {path} is larger than {MAX_BYTES} bytes; a plan has one row of actions per"
            " rank, is this the right file?"
        )
    try:
        return content.decode("utf-8-sig")  # spreadsheets put a byte order mark in front
    except UnicodeDecodeError as error:
        raise ValueError(
            f"plan file {path} is not UTF-8 text (byte {error.object[error.start]:#04x} at"
            f" {error.start}); export it as 'CSV UTF-8'"
        ) from error


def _cells(path: Path, text: str) -> Iterator[tuple[int, list[_Word]]]:
    """Line and cells of every line that holds anything."""
    if not _is_table(path):
        for line, content in enumerate(text.splitlines(), start=1):
            cells = [_Word(m[0], 1 + m.start()) for m in re.finditer(r"\S+", content)]
            if cells:
                yield line, cells
        return
    reader = csv.reader(StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    try:
        for row in reader:
            cells = [_Word(cell.strip(), column) for column, cell in enumerate(row, start=1)]
            cells = [cell for cell in cells if cell.text]
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(
            f"{path}, line {reader.line_num}: {error}; write one action per cell, like F2.1"
        ) from error


def _delimiter(text: str) -> str:
    """A comma; spreadsheets of some countries write semicolons."""
    rows = "".join(line for line in text.splitlines() if not line.lstrip('"').startswith("#"))
    return max(",;\t", key=rows.count)


# From rows of cells to a plan.


def _split(
    path: Path, lines: Sequence[tuple[int, list[_Word]]]
) -> tuple[_Header | None, list[_Row]]:
    """The line of sizes, if there is one, and the rows."""
    header, rows = None, []
    for line, cells in lines:
        content = " ".join(cell.text for cell in cells)
        if "stages=" in content:
            if header is not None or rows:
                _fail(path, line, f"{content!r} stands behind other rows; put the sizes first")
            header = _Header(line, content.lstrip("# "))
        elif not content.startswith("#"):
            rows.append(_row(line, cells))
    return header, rows


def _row(line: int, cells: list[_Word]) -> _Row:
    label = None
    for count in (1, 2):  # "rank 0" is one cell of a table and two words of a text
        match = _LABEL.fullmatch(" ".join(cell.text for cell in cells[:count]))
        if match is not None:
            label, cells = match[1], cells[count:]
            break
    words = (_Word(text, column) for text, column in _words(cells))
    return _Row(line, label, tuple(words))


def _words(cells: Sequence[_Word]) -> Iterator[tuple[str, int]]:
    """Actions without what the drawings add: dots, dashes, marks, and `+` before a `W`."""
    for text, column in cells:
        for part in text.split("+"):
            word = part.strip("-<>. ")
            if word:
                yield word, column


def _check_rows(path: Path, rows: Sequence[_Row]) -> None:
    """Every word an action, and every label that of its row."""
    if not any(row.words for row in rows):
        raise ValueError(
            f"plan file {path} holds no action; write one row per rank, like 'rank 0  F0.0 B0.0'"
            " or, in a .csv, rank 0,F0.0,B0.0"
        )
    for rank, row in enumerate(rows):
        if row.label is not None and int(row.label) != rank:
            _fail(path, row.line, f"rank {row.label} stands where rank {rank} belongs; sort them")
        for word in row.words:
            try:
                Action.parse(word.text, rank)
            except ValueError as error:
                place = f"{path}, line {row.line}, column {word.column}"
                raise ValueError(f"{place}: {error}") from None


def _assemble(path: Path, header: _Header | None, rows: Sequence[_Row]) -> Plan:
    words = [[word.text for word in row.words] for row in rows]
    if header is None:
        return plan_of_rows(words, name="-".join(path.stem.split()) or "plan")
    try:
        return Plan.parse("\n".join((header.text, *(" ".join(row) or "-" for row in words))))
    except ValueError as error:
        _fail(path, header.line, str(error))


def _where(path: Path, row: _Row, action: int) -> str:
    """The place of an action in the file."""
    if action < len(row.words):
        return f"{path}, line {row.line}, column {row.words[action].column}"
    return f"{path}, end of line {row.line}"


def _fail(path: Path, line: int, reason: str) -> NoReturn:
    raise ValueError(f"{path}, line {line}: {reason}")
