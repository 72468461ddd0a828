"""How close the lowering packs residuals, keys and values to the tokens that are alive at once.

    python -m benchmarks.packing                  about 10 seconds on one core
    python -m benchmarks.packing --chunks 4       fewer rows
    python -m benchmarks.packing --schedule seq-zb-h1
    python -m benchmarks.packing --prove 240      and to what is proven; pip install -e '.[packing]'

The published sizes (`published_sizes`) with balanced chunks and M=16. In the table, of the fullest
rank and in tokens of a sequence,

    arena, cache    what every rank allocates for residuals, and for keys and values
    .../bound       that over the tokens alive at the fullest tick: no packing takes less
    slots           what one slot of a whole sequence per microbatch in flight would take
    arena/least     over what is proven to be the least (`--prove`): the tokens alive, or more

Chunks of unequal length cannot always be packed without gaps; equal ones are. So where an arena is
more than 2 % above the tokens alive, a constraint solver looks for the largest room into which the
values of the first eight microbatches do not fit, nor then those of all. Nothing here depends on
the machine but the seconds, and what is proven in them.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from benchmarks.common import report
from benchmarks.common.least_room import least_room
from benchmarks.common.shapes import MICROBATCHES, SHAPES, Shape, chunk_lengths, plan_of
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.schedule import TickTable, lower
from seq1f1b_jax.schedule.lowering.packing import Interval
from seq1f1b_jax.schedule.lowering.table import BACKWARD, FORWARD, INPUT_BACKWARD, cell_actions

CHUNKS = (4, 8, 16)
WORTH_PROVING, PROVEN_WITH = 1.02, 8
"""Over the bound; microbatches."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Lower, print the table and the line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.packing", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--chunks", type=int, nargs="+", default=CHUNKS, help="C")
    parser.add_argument("--schedule", default="seq1f1b")
    parser.add_argument("--prove", type=float, metavar="SECONDS", help="for every attempt to prove")
    parser.add_argument("--out", help="JSON file, such as benchmarks/results/packing.json")
    options = parser.parse_args(arguments)
    if options.prove is not None and find_spec("ortools") is None:
        print(
            "error: --prove needs ortools; install the extra: pip install -e '.[packing]', or "
            "leave --prove out", file=sys.stderr,
        )  # fmt: skip
        return 2
    rows = list(measure(options.chunks, options.schedule, options.prove))
    report.show(f"{options.schedule}, M={MICROBATCHES}, in sequences", rows)
    report.finish({**summary(rows), "rows": rows}, path=options.out)
    return 0


def measure(
    chunks: Sequence[int], schedule: str = "seq1f1b", seconds: float | None = None
) -> Iterator[dict[str, Any]]:
    """One row per shape and number of chunks; with seconds, the least room is proven."""
    for name, shape in SHAPES.items():
        if name.endswith("seq1f1b_selective"):
            for num_chunks in chunks:
                yield row(replace(shape, num_chunks=num_chunks, schedule=schedule), seconds)


def row(shape: Shape, prove: float | None = None) -> dict[str, Any]:
    """What the lowered plan of a shape takes."""
    stage = build_stage(shape.family, preset=shape.preset, max_positions=shape.seq_len)
    plan, lengths = plan_of(shape), chunk_lengths(shape, stage)
    start = time.perf_counter()
    table = lower(plan, lengths)
    seconds = time.perf_counter() - start
    found = {
        "model": shape.preset, "T": table.seq_len, "P": shape.pipe, "C": shape.num_chunks,
        "arena": table.arena_tokens / table.seq_len,
        "arena/bound": table.arena_tokens / table.arena_bound,
        "cache": table.cache_tokens / table.seq_len,
        "cache/bound": table.cache_tokens / table.cache_bound,
        "slots": most_sequences(table),
        "seconds": seconds,
    }
    if prove is not None:
        least = table.arena_bound
        if table.arena_tokens > WORTH_PROVING * least:
            some = residuals(table, PROVEN_WITH)
            least = least_room(some, least, table.arena_tokens, seconds=prove)
        found["arena/least"] = table.arena_tokens / least
    return found


def residuals(table: TickTable, num_microbatches: int | None = None) -> list[Interval]:
    """Lifetimes of the fullest rank's residuals; of the first microbatches, or of all.

    Example:
      >>> from seq1f1b_jax.schedule import lower, make_plan
      >>> plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=1, num_chunks=2)
      >>> [value.size for value in residuals(lower(plan, (16, 8)))]
      [16, 8]
    """
    rank = max(range(table.num_ranks), key=lambda rank: table.arena_bound_per_rank[rank])
    ticks: dict[tuple[int, int, int], list[int]] = {}
    for tick in range(table.num_ticks):
        for action in cell_actions(table, tick, rank):
            ticks.setdefault((action.stage, action.microbatch, action.chunk), []).append(tick)
    return [
        Interval(first, last, table.chunk_lengths[chunk])
        for (_, microbatch, chunk), (first, *_, last) in ticks.items()
        if num_microbatches is None or microbatch < num_microbatches
    ]


def most_sequences(table: TickTable) -> int:
    """Microbatches in flight on the fullest rank, from their first forward to their last backward.

    Example:
      >>> from seq1f1b_jax.schedule import lower, make_plan
      >>> plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=4, num_chunks=2)
      >>> most_sequences(lower(plan, (8, 8)))
      2
    """
    op, first = table.actions.op, table.actions.chunk == 0
    begun = ((op == FORWARD) & first).cumsum(axis=0)
    ended = (((op == BACKWARD) | (op == INPUT_BACKWARD)) & first).cumsum(axis=0)
    return int((begun - ended).max())


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The figures of the last line: the worst packing, and the slowest lowering."""
    proven = [row["arena/least"] for row in rows if "arena/least" in row]
    return {
        **({"arena_over_least": max(proven)} if proven else {}),
        "arena_over_bound": max(row["arena/bound"] for row in rows),
        "cache_over_bound": max(row["cache/bound"] for row in rows),
        "lowering_seconds": max(row["seconds"] for row in rows),
    }


if __name__ == "__main__":
    raise SystemExit(main())
