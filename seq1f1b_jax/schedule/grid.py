"""A schedule as a grid of letters: one row per rank, time from left to right.

    rank 0  F0.0 F0.1 F1.0 .... .... B0.1----- F1.1 B0.0----- .... B1.1----- B1.0-----
    rank 1  .... F0.0 F0.1 B0.1----- F1.0 B0.0----- F1.1 B1.1----- B1.0----- .... ....

`F` forward, `B` backward, `I` and `W` its two halves, then microbatch.chunk, and `@stage` where a
rank holds several. Dots are a column in which the rank waits,
dashes fill the columns that an action lasts beyond its first, `>F0.1<` is a marked cell. The same
letters draw three things: a plan (columns count the actions of a rank, waiting is not shown), a
tick table (columns are ticks) and a simulation (columns are units of time).
"""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from seq1f1b_jax.schedule.actions import Action
from seq1f1b_jax.schedule.exchange import Exchange
from seq1f1b_jax.schedule.plan import Plan

_ROW = re.compile(r"\s*rank\s+\d+\s+(.*)")
_WINDOW = 24


class Cell(NamedTuple):
    """Something to draw in a row.

    Attributes:
      text: its letters.
      column: where it starts.
      width: how many columns it lasts.
    """

    text: str
    column: int
    width: int = 1


def draw(rows: Sequence[Iterable[Cell]], *, num_columns: int, max_width: int | None = None) -> str:
    """Draw one line per rank.

    Args:
      rows: the cells of each rank, columns ascending, not overlapping.
      num_columns: columns of every row; those without a cell are drawn as dots.
      max_width: letters that a line may have, as far as one column leaves room. A wider grid loses
        its last columns, and a line under it says how many. None: any.

    Example:
      >>> from seq1f1b_jax.schedule.grid import Cell, draw
      >>> row = [Cell(f"F{i}.0", i) for i in range(9)]
      >>> print(draw([row], num_columns=9, max_width=32))
      rank 0  F0.0 F1.0 F2.0 F3.0 ...
      (columns 0 to 3 of 9)
    """
    rows = [tuple(row) for row in rows]
    letters = max((len(cell.text) for row in rows for cell in row), default=1)
    labels = [f"rank {rank:>{len(str(len(rows) - 1))}}  " for rank in range(len(rows))]
    shown = num_columns
    if max_width is not None and len(labels[0]) + num_columns * (letters + 1) - 1 > max_width:
        room = max_width - len(labels[0]) - len(_MORE)
        shown = min(num_columns, max(1, (room + 1) // (letters + 1)))
    cut = shown < num_columns
    lines = [
        f"{label}{_draw_row(row, shown, letters)}".rstrip() + _MORE * cut
        for label, row in zip(labels, rows, strict=True)
    ]
    if cut:
        lines.append(f"(columns 0 to {shown - 1} of {num_columns})")
    return "\n".join(lines)


_MORE = " ..."


def _draw_row(row: Sequence[Cell], num_columns: int, letters: int) -> str:
    words = {column: "." * letters for column in range(num_columns)}
    for text, column, width in row:
        if column >= num_columns:
            continue
        width = min(width, num_columns - column)
        for covered in range(column + 1, column + width):
            del words[covered]
        fill = "-" if width > 1 else " "
        words[column] = text.ljust(width * (letters + 1) - 1, fill)
    return " ".join(words.values())


def draw_plan(plan: Plan, *, max_width: int | None = None) -> str:
    """Draw a plan in action order: column i holds the i-th action of each rank.

    Args:
      plan: of any origin.
      max_width: see `draw`.

    Example:
      >>> from seq1f1b_jax.schedule import draw_plan, make_plan
      >>> print(draw_plan(make_plan("1f1b", num_ranks=2, num_microbatches=2, num_chunks=1)))
      rank 0  F0.0 F1.0 B0.0 B1.0
      rank 1  F0.0 B0.0 F1.0 B1.0
    """
    rows = [
        [Cell(action.text(rank), column) for column, action in enumerate(row)]
        for rank, row in enumerate(plan.ranks)
    ]
    return draw(rows, num_columns=max(map(len, plan.ranks)), max_width=max_width)


def draw_marked(plan: Plan, *, rank: int, index: int, text: str | None = None) -> str:
    """Draw the columns of a plan around one cell, with that cell marked as `>F2.1<`.

    Args:
      plan: may be wrong.
      rank: row of the cell.
      index: column of the cell; the length of the row marks what is missing at its end.
      text: what to write in the cell; the action that is there unless given.
    """
    columns = max(*map(len, plan.ranks), index + 1)
    first = max(0, min(index - _WINDOW // 2, columns - _WINDOW))
    last = min(columns, first + _WINDOW)
    rows = [
        {column: a.text(row) for column, a in enumerate(actions) if first <= column < last}
        for row, actions in enumerate(plan.ranks)
    ]
    rows[rank][index] = f">{text or rows[rank][index]}<"
    cells = [[Cell(word, column - first) for column, word in row.items()] for row in rows]
    grid = draw(cells, num_columns=last - first)
    if last - first == columns:
        return grid
    return f"{grid}\n(actions {first} to {last - 1} of {columns})"


def parse_grid(text: str, *, name: str) -> Plan:
    """Read a plan back from any of the drawings.

    The sizes are those that the letters show: a plan that lacks its last microbatch or chunk comes
    back as a smaller one.

    Args:
      text: rows as `draw` writes them; lines that do not start with `rank` are skipped.
      name: what to call the plan.

    Raises:
      ValueError: no row, no action, or a word that is not an action.
    """
    matches = (_ROW.fullmatch(line) for line in text.splitlines())
    rows = [match.group(1).replace("+", " ").split() for match in matches if match is not None]
    words = [[word.strip("-<>") for word in row if word.strip(".")] for row in rows]
    actions = [[Action.parse(word, rank) for word in row] for rank, row in enumerate(words)]
    return plan_of_actions(actions, name=name)


def plan_of_actions(ranks: Sequence[Sequence[Action]], *, name: str) -> Plan:
    """Put a plan together from the actions of its ranks; the sizes are those that they show.

    Stages beyond the ranks make stages, and those need the exchange `lockstep`.

    Raises:
      ValueError: no action at all.

    Example:
      >>> from seq1f1b_jax.schedule import Action, Op
      >>> from seq1f1b_jax.schedule.grid import plan_of_actions
      >>> plan = plan_of_actions([[Action(Op.F, 0, 2, 1)]], name="mine")
      >>> plan.num_microbatches, plan.num_chunks
      (3, 2)
    """
    actions = [action for row in ranks for action in row]
    if not actions:
        raise ValueError("the grid holds no action; write rows like 'rank 0  F0.0 F0.1 B0.1 B0.0'")
    stages_per_rank = 1 + max(action.stage for action in actions) // len(ranks)
    return Plan(
        name,
        len(ranks),
        num_microbatches=1 + max(action.microbatch for action in actions),
        num_chunks=1 + max(action.chunk for action in actions),
        ranks=tuple(map(tuple, ranks)),
        stages_per_rank=stages_per_rank,
        exchange=Exchange.of_line_or_ring(stages_per_rank),
    )
