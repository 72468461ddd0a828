"""Print a schedule.

    python -m seq1f1b_jax.schedule seq1f1b --stages 4 --microbatches 4 --chunks 2

Shows the order of work and the course of time as grids of letters, the bubble and the units in
flight next to their closed forms, and with `--seq-len` what the executor will allocate.
"""

import argparse
import sys
from collections.abc import Sequence
from fractions import Fraction
from math import gcd
from typing import NoReturn

from seq1f1b_jax.schedule.formulas import (
    bubble_formula,
    bubble_fraction_formula,
    peak_units_formula,
)
from seq1f1b_jax.schedule.grid import draw_plan
from seq1f1b_jax.schedule.lower import lower
from seq1f1b_jax.schedule.partition import even_lengths
from seq1f1b_jax.schedule.plan import Plan, peak_units
from seq1f1b_jax.schedule.registry import SCHEDULES, make_plan
from seq1f1b_jax.schedule.simulate import draw_simulation, simulate
from seq1f1b_jax.schedule.table import TickTable

_MAX_COLUMNS = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
      arguments: of the command line; those of the process unless given.

    Returns:
      The exit status: 0, or 2 after one line about bad input on standard error.
    """
    options = _parser().parse_args(arguments)
    try:
        report = _report(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report)
    return 0


class _Parser(argparse.ArgumentParser):
    """One line for bad input, without the page of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m seq1f1b_jax.schedule", description="Print a schedule.")
    parser.add_argument("schedule", help=f"one of {', '.join(SCHEDULES)}")
    parser.add_argument("--stages", type=int, required=True, help="ranks of the pipeline")
    parser.add_argument("--microbatches", type=int, required=True, help="of one step")
    parser.add_argument("--chunks", type=int, default=1, help="slices of a sequence (1)")
    parser.add_argument("--extra-warmup", type=int, default=0, help="further warm-up forwards (0)")
    parser.add_argument("--forward", type=_cost, default=Fraction(1), help="cost of a unit's F (1)")
    parser.add_argument("--backward", type=_cost, default=Fraction(2), help="and of its B (2)")
    parser.add_argument("--seq-len", type=int, help="tokens, cut evenly: shows the buffers too")
    parser.add_argument("--block", type=int, default=128, help="alignment of the chunks (128)")
    return parser


def _cost(text: str) -> Fraction:
    try:
        cost = Fraction(text)
    except (ValueError, ZeroDivisionError):
        cost = Fraction(0)
    if cost <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0, like 2.5")
    return cost


def _report(options: argparse.Namespace) -> str:
    plan = make_plan(
        options.schedule,
        num_stages=options.stages,
        num_microbatches=options.microbatches,
        num_chunks=options.chunks,
        extra_warmup=options.extra_warmup,
    )
    parts = [
        f"{plan.name}: stages={plan.num_stages} microbatches={plan.num_microbatches}"
        f" chunks={plan.num_chunks}, {plan.num_units} units of work on every rank",
        "order of work (F forward, B backward, then microbatch.chunk)\n" + draw_plan(plan),
        _course_of_time(plan, options.forward, options.backward),
        _closed_forms(plan, options),
    ]
    if options.seq_len is not None:
        lengths = even_lengths(options.seq_len, plan.num_chunks, block=options.block)
        parts.append(_buffers(lower(plan, lengths)))
    return "\n\n".join(parts)


def _course_of_time(plan: Plan, forward: Fraction, backward: Fraction) -> str:
    scale = forward.denominator * backward.denominator
    column = Fraction(gcd(int(forward * scale), int(backward * scale)), scale)
    simulation = simulate(plan, forward, backward)
    title = f"course of time (F={_number(forward)} B={_number(backward)}, one column is"
    if simulation.makespan / column > _MAX_COLUMNS:
        return f"{title} {_number(column)}): more than {_MAX_COLUMNS} columns, not drawn"
    return f"{title} {_number(column)})\n{draw_simulation(simulation, column=column)}"


def _closed_forms(plan: Plan, options: argparse.Namespace) -> str:
    simulation = simulate(plan, options.forward, options.backward)
    bubble = bubble_formula(plan.num_stages, options.forward, options.backward)
    fraction = bubble_fraction_formula(plan.num_stages, plan.num_units)
    peaks = peak_units_formula(
        num_stages=plan.num_stages,
        num_microbatches=plan.num_microbatches,
        num_chunks=plan.num_chunks,
        extra_warmup=plan.num_units if plan.name == "gpipe" else options.extra_warmup,
    )
    warmup = " + extra_warmup" if options.extra_warmup else ""
    peak_rule = "M*C" if plan.name == "gpipe" else f"min(P-p-1+C{warmup}, M*C)"
    return _table(
        ("", "simulated", "closed form", ""),
        ("step time", _number(simulation.makespan), "", ""),
        ("bubble time", _number(simulation.bubble), _number(bubble), "(P-1)(F+B)"),
        (
            "bubble fraction",
            f"{simulation.bubble_fraction:.4f}",
            f"{fraction:.4f}",
            "(P-1)/(P-1+M*C)",
        ),
        ("peak units, by rank", _list(peak_units(plan)), _list(peaks), peak_rule),
    )


def _buffers(table: TickTable) -> str:
    return _table(
        ("chunk lengths", _list(table.chunk_lengths), "tokens"),
        ("ticks", str(table.num_ticks), ""),
        ("cache slots, by rank", _list(table.cache_slots_per_rank), "microbatches"),
        ("residual arena, by rank", _list(table.arena_tokens_per_rank), "tokens"),
    )


def _table(*rows: tuple[str, ...]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def _list(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _number(value: Fraction | float) -> str:
    return f"{float(value):g}"


if __name__ == "__main__":
    sys.exit(main())
