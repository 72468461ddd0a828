"""The cost of tracing every action (`watchdog.ticks`): steps with and without, in turn.

    python -m benchmarks.heartbeat                     about a minute on two cores
    python -m benchmarks.heartbeat --length 2048 --repeats 9

Tracing puts two host callbacks around every action (`pipeline/executor/trace.py`). The table has
the median step of both programs; the line of JSON has their difference as `ms_per_action`,
`ms_per_tick` (in a tick every device may run an action) and `step_ratio`. A difference within the
`spread` of the steps is noise.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax

from benchmarks.common import report
from benchmarks.common.cases import Size, pipelined, random_batch, use_cpu_devices
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline.executor.trace import LastActions

MICROBATCHES, CHUNKS = 8, 4


def main(arguments=None) -> int:
    """Run, print the table and the line of JSON; the exit status is 0."""
    options = _parser().parse_args(arguments)
    use_cpu_devices(options.ranks)
    rows = measure(options)
    report.show("steps with and without callbacks", rows)
    report.finish(summary(rows), path=options.out)
    return 0


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each of the two programs, run in turn."""
    stage = build_stage(
        "llama", num_layers=2 * options.ranks, model_dim=options.width, num_heads=4,
        mlp_dim=4 * options.width, vocab_size=256,
    )
    step = pipelined(stage, Size(options.ranks, MICROBATCHES, CHUNKS, options.length))
    params = step.init(jax.random.key(0))
    batch = random_batch(stage, MICROBATCHES, options.length)
    last = LastActions()
    runs: dict[str, Callable] = {
        name: jax.jit(it.loss_and_grads)
        for name, it in {"without": step, "with": step.traced(last)}.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(options.repeats + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run(params, *batch))
            if number:  # the first one compiles
                seconds[name].append(time.perf_counter() - began)
    assert sorted(last.last) == list(range(options.ranks)), "an action was not traced"
    rows = []
    for name, taken in seconds.items():
        median, spread = report.median_and_spread(taken)
        rows.append({
            "callbacks": name, "step_ms": 1e3 * median, "spread": spread,
            "smallest_ms": 1e3 * min(taken), "actions": sum(map(len, step.plan.ranks)),
            "ticks": step.table.num_ticks,
        })  # fmt: skip
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The cost of tracing, from the medians."""
    without, traced = rows
    cost = traced["step_ms"] - without["step_ms"]
    return {
        "ms_per_action": cost / without["actions"], "ms_per_tick": cost / without["ticks"],
        "step_ratio": traced["step_ms"] / without["step_ms"],
        "spread": max(row["spread"] for row in rows), "rows": rows,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.heartbeat", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ranks", type=int, default=2, help="virtual CPU devices")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a sequence")
    parser.add_argument("--width", type=int, default=64, help="model_dim")
    parser.add_argument("--repeats", type=int, default=21, help="steps of each; the median counts")
    parser.add_argument("--out", help="JSON file, such as benchmarks/results/heartbeat.json")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
