"""A plan that a user wrote: read from a file and checked, and written back.

As a table (`.csv`), one row per rank and one cell per action, from any spreadsheet:

    # 1f1b ranks=2 microbatches=2 chunks=1 exchange=parity
    rank 0,F0.0,F1.0,,B0.0,B1.0
    rank 1,,F0.0,B0.0,F1.0,B1.0

As text, what `Plan.text` or one of the drawings prints:

    rank 0  F0.0 F1.0 .... B0.0 B1.0
    rank 1  .... F0.0 B0.0 F1.0 B1.0

As torch writes its schedules (`torch_cells`), recognised by its cells:

    0F0,0F1,,0B0,0B1
    ,1F0,1B0,1F1,1B1

Only the order within a row counts: empty cells, dots and dashes are waiting. A line that starts
with `#` is a comment. The line with the sizes, comment or not, may be left out, as may `rank 0`:
then the sizes are those that the letters show, and the plan is called after the file. `exchange`
may be left out of it: then the faster one is taken (`fastest`). docs/plans.md has it all.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple

from seq1f1b_jax.paths import one_line, resolve
from seq1f1b_jax.schedule.actions import Action
from seq1f1b_jax.schedule.files.plan_rows import Header, Row, fail, is_table, position_of, read_rows
from seq1f1b_jax.schedule.files.torch_cells import is_torch_cell, parse_torch_cell, torch_table
from seq1f1b_jax.schedule.grid import plan_of_actions
from seq1f1b_jax.schedule.plan import Plan, PlanError, plan_under
from seq1f1b_jax.schedule.simulation.fastest import Choice, with_faster_exchange
from seq1f1b_jax.schedule.validate import validate

Format = Literal["own", "torch"]
"""Whose cells a file has."""


def read_plan(path: str | PathLike[str], *, num_chunks: int | None = None) -> Plan:
    r"""Read a plan and validate it.

    Args:
      path: of a UTF-8 file, `~` for the home folder. A table (`.csv`, separated by commas,
        semicolons or tabs) or text.
      num_chunks: chunks C of a file with torch's cells, which know none: microbatch u there is
        chunk `u % C` of microbatch `u // C`. None: 1. Files of the own form bring theirs.

    Returns:
      A valid plan. Where the file names no exchange it has the faster one.

    Raises:
      PlanError: the plan cannot run. The message names file and line and draws the grid.
      ValueError: there is no such file, it is too large or not UTF-8, or a cell cannot be read. The
        message names file, line and column.

    Example:
      >>> from pathlib import Path
      >>> from tempfile import TemporaryDirectory
      >>> from seq1f1b_jax.schedule.files.plan_file import read_plan
      >>> with TemporaryDirectory() as folder:
      ...     path = Path(folder, "mine.csv")
      ...     _ = path.write_text("0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n")
      ...     print(read_plan(path).text())
      mine ranks=2 microbatches=2 chunks=1 exchange=parity
      F0.0 F1.0 B0.0 B1.0
      F0.0 B0.0 F1.0 B1.0
    """
    return load_plan(path, num_chunks=num_chunks).plan


def load_plan(path: str | PathLike[str], *, num_chunks: int | None = None) -> Choice:
    r"""Read a plan like `read_plan`, and say which exchange it was given.

    Returns:
      The plan, and a line about its exchange; an empty one where the file names it.

    Raises:
      ValueError: as `read_plan`.

    Example:
      >>> from pathlib import Path
      >>> from tempfile import TemporaryDirectory
      >>> from seq1f1b_jax.schedule.files.plan_file import load_plan
      >>> with TemporaryDirectory() as folder:
      ...     path = Path(folder, "mine.csv")
      ...     _ = path.write_text("F0.0,F1.0,B0.0,B1.0\nF0.0,B0.0,F1.0,B1.0\n")
      ...     load_plan(path).reason
      'exchange=parity: a step of 9, with lockstep 9 (F=1 B=2)'
    """
    header, rows = read_rows(path)
    chunks = (num_chunks or 1) if _has_torch_cells(path, header, rows) else None
    numbered = [list(_actions(path, rank, row, chunks)) for rank, row in enumerate(rows)]
    plan = _assemble(path, header, tuple(tuple(p.action for p in row) for row in numbered))
    num_actions = sum(map(len, plan.ranks))
    if plan.num_stages > num_actions:  # before anything walks over all stages
        raise ValueError(
            f"plan file {one_line(path)} names {plan.num_stages} stages and holds"
            f" {num_actions} actions; every stage runs every unit, so correct the number of the"
            " stage in a cell, or the sizes"
        )
    if chunks:
        plan = _with_chunks(path, plan, chunks)
    try:
        validate(plan)
    except PlanError as error:
        words = [p.word for p in numbered[error.rank]]
        position = position_of(
            path, rows[error.rank], [*words, len(rows[error.rank].words)][error.index]
        )
        chunks_matter = chunks and chunks > 1 and _runs_whole(path)
        hint = f" ({_READ_WITH_CHUNKS.format(chunks)})" if chunks_matter else ""
        raise PlanError(f"{position}{hint}: {error}", error.rank, error.index) from None
    if header is None or " exchange=" not in header.text:
        return with_faster_exchange(plan)
    try:
        plan.exchange.pairs(0, num_ranks=plan.num_ranks, ring=plan.stages_per_rank > 1)
    except ValueError as error:
        fail(path, header.line, str(error))
    return Choice(plan, "")


_READ_WITH_CHUNKS = (
    "torch's microbatch u is read as chunk u mod {0} of microbatch u div {0}; an order of whole"
    " sequences needs num_chunks=1"
)


def write_plan(plan: Plan, path: str | PathLike[str], *, form: Format = "own") -> None:
    """Write a plan so that `read_plan` gives an equal one.

    Args:
      plan: of any origin.
      path: `.csv` is written as a table, anything else as text; `~` is the home folder. An existing
        file is replaced.
      form: `torch` writes torch's table, whatever the ending: chunk c of microbatch m as microbatch
        `m*C + c`, so that reading needs `num_chunks`, and without name and exchange.

    Raises:
      ValueError: the file cannot be written, or torch has no such plan.

    Example:
      >>> from pathlib import Path
      >>> from tempfile import TemporaryDirectory
      >>> from seq1f1b_jax.schedule import make_plan
      >>> from seq1f1b_jax.schedule.files.plan_file import write_plan
      >>> plan = make_plan("seq1f1b", num_ranks=1, num_microbatches=2, num_chunks=2)
      >>> with TemporaryDirectory() as folder:
      ...     write_plan(plan, Path(folder, "mine.csv"), form="torch")
      ...     print(Path(folder, "mine.csv").read_text())
      0F0,0F1,0B1,0B0,0F2,0F3,0B3,0B2
      <BLANKLINE>
    """
    if form == "torch":
        text = torch_table(plan)
    else:
        text = _table(plan) if is_table(path) else plan.text() + "\n"
    try:
        if os.fspath(path).endswith(("/", os.sep)):
            raise IsADirectoryError(0, "it names a folder")
        resolve(path).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(
            f"cannot write plan file {one_line(path)}: {reason}; choose another path"
        ) from error


def _table(plan: Plan) -> str:
    header, *rows = plan.text().split("\n")
    cells = ("," + row.replace(" ", ",") if row != "-" else "" for row in rows)
    lines = (f"rank {rank}{row}" for rank, row in enumerate(cells))
    return "\n".join((f"# {header}", *lines, ""))


# From rows of words to a plan.


def _runs_whole(path: str | PathLike[str]) -> bool:
    """Whether a file of torch's would run if its microbatches were whole sequences."""
    try:
        load_plan(path, num_chunks=1)
    except ValueError:
        return False
    return True


def _has_torch_cells(path: str | PathLike[str], header: Header | None, rows: Sequence[Row]) -> bool:
    """Whether a file is torch's, by its cells; a mixture is refused."""
    if not any(is_torch_cell(word.text) for row in rows for word in row.words):
        return False
    if header is not None:
        fail(
            path, header.line, "a line of sizes comes before cells of torch's, which show them all;"
            " leave it out, or write cells like F2.1",
        )  # fmt: skip
    return True


class _Numbered(NamedTuple):
    """An action and the index of its word in the row: a cell of torch's may hold two, or none."""

    action: Action
    word: int


def _actions(
    path: str | PathLike[str], rank: int, row: Row, chunks: int | None
) -> Iterator[_Numbered]:
    """The actions of a row; `chunks` of torch's cells, None for our own."""
    if row.label is not None and int(row.label) != rank:
        fail(path, row.line, f"rank {row.label} is where rank {rank} belongs; sort them")
    for index, word in enumerate(row.words):
        try:
            if chunks is None:
                found = (Action.parse(word.text, rank),)
            elif is_torch_cell(word.text):
                found = parse_torch_cell(word.text, num_chunks=chunks)
            else:
                raise ValueError(
                    f"{word.text!r} is in a file of torch's cells, which read like 0F1;"
                    " write all cells in one form"
                )
        except ValueError as error:
            raise ValueError(f"{position_of(path, row, index)}: {error}") from None
        yield from (_Numbered(action, index) for action in found)


def _assemble(
    path: str | PathLike[str], header: Header | None, ranks: tuple[tuple[Action, ...], ...]
) -> Plan:
    if header is None:
        if not any(ranks):
            raise ValueError(f"plan file {one_line(path)} holds messages only; write an F and a B")
        return plan_of_actions(ranks, name=_name(path))
    try:
        return plan_under(header.text, ranks)
    except ValueError as error:
        fail(path, header.line, str(error))


def _with_chunks(path: str | PathLike[str], plan: Plan, chunks: int) -> Plan:
    """The plan with the requested number of chunks, whether or not the letters show them all."""
    units = 1 + max(a.microbatch * chunks + a.chunk for row in plan.ranks for a in row)
    if units % chunks:
        raise ValueError(
            f"plan file {one_line(path)} holds {units} microbatches of torch's, which do not make"
            f" whole sequences of num_chunks={chunks} chunks; use a divisor of {units}, or 1"
        )
    return replace(plan, num_chunks=chunks)


def _name(path: str | PathLike[str]) -> str:
    """The file's name as one word that a line of sizes can hold, in a table too."""
    return re.sub(r"""[\s#,;"]+""", "-", Path(path).stem).strip("-") or "plan"
