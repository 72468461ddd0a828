"""What chunk lengths trade: the time of a step against its memory, at the published sizes.

    python -m benchmarks.lengths                      seconds, on one core
    python -m benchmarks.lengths --out lengths.json

Simulated, not measured: `time` is that of a step on the executor's machine over that of the
balanced cut; `tokens` are those in flight on the fullest rank, in sequences; `memory` counts them
once per layer and the longest chunk for the scratch of a layer, over the balanced cut's. 16
microbatches.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks.common import report
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.schedule import StageCost, balanced_lengths, make_plan
from seq1f1b_jax.schedule.simulation.lengths import candidates

MICROBATCHES, BLOCK = 16, 128
SHAPES = [("2.7b", 32768, 8), ("7b", 32768, 4), ("7b", 131072, 4), ("30b", 65536, 8)]
CHUNKS = (4, 8)
SLOWDOWN = 0.005
"""The summary gives the memory that a step of at most so much more time saves."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the table and the line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lengths", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", help="file for the line of JSON")
    options = parser.parse_args(arguments)
    rows = [row for shape in SHAPES for chunks in CHUNKS for row in measure(*shape, chunks)]
    report.show("chunk lengths between balanced (weight 0) and even (1)", rows)
    fast = [row["memory"] for row in rows if row["time"] <= 1 + SLOWDOWN]
    report.finish({"least_memory_at_half_a_percent": min(fast), "rows": rows}, path=options.out)
    return 0


def measure(preset: str, seq_len: int, num_ranks: int, num_chunks: int) -> Iterator[dict[str, Any]]:
    """One row per cut."""
    stage = build_stage("gpt", preset=preset, max_positions=seq_len)
    cost = StageCost.of(stage, (stage.num_layers // num_ranks,) * num_ranks)
    plan = make_plan(
        "seq1f1b", num_ranks=num_ranks, num_microbatches=MICROBATCHES, num_chunks=num_chunks
    )
    cut = partial(balanced_lengths, seq_len, num_chunks, block=BLOCK)
    found = candidates(plan, cost, cut, seq_len=seq_len)
    for one in found:
        yield {
            "model": preset, "tokens of a sequence": seq_len, "P": num_ranks, "C": num_chunks,
            "weight": one.weight, "time": round(float(one.time / found[0].time), 4),
            "memory": round(one.memory / found[0].memory, 3),
            "tokens": round(one.tokens / seq_len, 3),
            "lengths": "+".join(map(str, one.lengths)),
        }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
