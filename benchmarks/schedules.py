"""Every named schedule, simulated: bubble, memory, and what the executor adds to the time.

    python -m benchmarks.schedules                           about 2 minutes on one core
    python -m benchmarks.schedules --ranks 4 8 --chunks 4   two lines per schedule and B/F

P ranks, `2P` microbatches, interleaved schedules with two stages per rank; with one chunk the
schedules of whole sequences are shown, with more their chunked forms. W takes as long as F. In the
table

    bubble                   fraction of the step that ranks wait, on the asynchronous machine
    peak                     in flight on the fullest rank, in microbatches: units/(V*C)
    executor/asynchronous    ratio of step times on the two machines
    bubble/formula           bubble on the executor machine over the closed form

Nothing here is measured; the figures are the same on any machine.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from benchmarks.common import report
from seq1f1b_jax.schedule import SCHEDULES, Costs, Plan, make_plan, peak_units, simulate
from seq1f1b_jax.schedule.formulas import closed_form

RANKS, CHUNKS, RATIOS = (4, 8, 16, 64), (1, 4, 8), ("2", "2.5")
MICROBATCHES_PER_RANK = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the table and the line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.schedules", description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS, help="P")
    parser.add_argument("--chunks", type=int, nargs="+", default=CHUNKS, help="C")
    parser.add_argument("--ratios", type=Fraction, nargs="+", default=RATIOS, help="B over F")
    parser.add_argument("--out", help="file for the line of JSON")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    ratios = [Fraction(ratio) for ratio in options.ratios]
    rows = list(measure(options.ranks, options.chunks, ratios))
    report.show(f"schedules, M={MICROBATCHES_PER_RANK}P", rows)
    values = {**summary(rows), "seconds": round(time.perf_counter() - start, 1)}
    report.finish(values, path=options.out)
    return 0


def measure(
    ranks: Sequence[int], chunks: Sequence[int], ratios: Sequence[Fraction]
) -> Iterator[dict[str, Any]]:
    """One row per size, schedule and ratio of costs."""
    for num_ranks in ranks:
        for num_chunks in chunks:
            sizes = {
                "num_ranks": num_ranks,
                "num_microbatches": MICROBATCHES_PER_RANK * num_ranks,
                "num_chunks": num_chunks,
            }
            for name in schedules(num_chunks):
                plan = make_plan(name, **sizes)
                yield from (row(plan, ratio) for ratio in ratios)


def schedules(num_chunks: int) -> list[str]:
    """Each schedule under one name: that of whole sequences where there is one chunk."""
    whole = num_chunks == 1
    return [name for name, schedule in SCHEDULES.items() if bool(schedule.chunked_name) == whole]


def row(plan: Plan, ratio: Fraction) -> dict[str, Any]:
    """Simulate a plan whose B takes `ratio` times its F."""
    costs = Costs(forward=ratio.denominator, backward=ratio.numerator)  # whole numbers: exact
    free = simulate(plan, costs)
    executor = simulate(plan, costs, machine="executor")
    sizes = {name: getattr(plan, name) for name in ("num_ranks", "num_microbatches", "num_chunks")}
    form = closed_form(plan.name, costs, **sizes, stages_per_rank=plan.stages_per_rank)
    return {
        "P": plan.num_ranks,
        "M": plan.num_microbatches,
        "C": plan.num_chunks,
        "B/F": float(ratio),
        "schedule": plan.name,
        "V": plan.stages_per_rank,
        "bubble": free.bubble_fraction,
        "peak": max(peak_units(plan)) / (plan.stages_per_rank * plan.num_chunks),
        "executor/asynchronous": float(Fraction(executor.makespan, free.makespan)),
        "bubble/formula": float(Fraction(executor.bubble, form.bubble)) if form.bubble else None,
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The worst of all rows, and of each schedule."""
    by_schedule = {
        name: _worst([row for row in rows if row["schedule"] == name])
        for name in dict.fromkeys(row["schedule"] for row in rows)
    }
    return {**_worst(rows), "schedules": by_schedule, "num_simulated": len(rows)}


def _worst(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    over_formula = [row["bubble/formula"] for row in rows if row["bubble/formula"] is not None]
    return {
        "max_executor_over_asynchronous": max(row["executor/asynchronous"] for row in rows),
        "max_bubble_over_formula": max(over_formula, default=1.0),
        "max_bubble": max(row["bubble"] for row in rows),
        "max_peak_microbatches": max(row["peak"] for row in rows),
    }


if __name__ == "__main__":
    raise SystemExit(main())
