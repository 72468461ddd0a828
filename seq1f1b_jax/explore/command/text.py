"""Numbers and tables as the command prints them."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

from seq1f1b_jax.schedule.actions import Op
from seq1f1b_jax.schedule.plan import Plan


def table(rows: Iterable[Sequence[str]]) -> str:
    """Align columns.

    Example:
      >>> from seq1f1b_jax.explore.command.text import table
      >>> print(table([("", "seq1f1b"), ("step time", "15")]))
                 seq1f1b
      step time  15
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def number(value: Any) -> str:
    """Write a number: whole ones in full, others with six digits; nothing for None.

    Example:
      >>> from fractions import Fraction
      >>> from seq1f1b_jax.explore.command.text import number
      >>> number(Fraction(15, 1)), number(Fraction(1, 3)), number(None)
      ('15', '0.333333', '')
    """
    if value is None:
        return ""
    return str(int(value)) if value == int(value) else f"{float(value):g}"


def numbers(values: Iterable[Any]) -> str:
    """Write one number per rank."""
    return " ".join(map(number, values))


def ratio(value: Any) -> str:
    """Write a share or a proportion with four decimals; nothing for None."""
    return "" if value is None else f"{float(value):.4f}"


def size_text(plan: Plan) -> str:
    """Write the sizes of a plan as its header does."""
    return plan.text().split("\n", 1)[0].split(" ", 1)[1]


def ops_of(plan: Plan) -> tuple[Op, ...]:
    """Operations that occur in a plan, in the order F, B, I, W."""
    present = {action.op for row in plan.ranks for action in row}
    return tuple(op for op in Op if op in present)


def microbatches(units: int, plan: Plan) -> Fraction:
    """Units of a plan as microbatches of all of a rank's layers: units/(V*C)."""
    return Fraction(units, plan.stages_per_rank * plan.num_chunks)
