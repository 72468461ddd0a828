"""Exchanges of a ring, simulated with unequal costs: how much waiting for neighbours takes.

    python -m benchmarks.exchange      about 1 minute on one core

The interleaved schedule with V=2, 2P microbatches and B = 2F, on ranks that wait differently:

    free         for their own messages only: the order on the asynchronous machine
    every tick   for both neighbours in every tick, as if a lock-step permute blocked its tick
    once         for both neighbours once in two ticks: both permutes together behind B
    late         for both neighbours to have begun a tick: a permute travels beside its action
    line         `seq1f1b`, one stage per rank, in the executor

Costs: `chunks r` rise along the sequence, the last chunk r times the first; `stages` differ by up
to 10 %, `jitter` of every action by up to 10 % (medians of five seeds). Times are over the work of
a rank in the mean. `late` is what the executor does where permutes are asynchronous, as XLA:GPU
compiles them; a test holds it to the simulator. On XLA:CPU a permute blocks: `every tick`. Nothing
here is measured; the figures are the same on any machine.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import report
from seq1f1b_jax.schedule import Action, Op, Plan, assign_ticks, make_plan, peak_units
from seq1f1b_jax.schedule.dependencies import dependencies, execution_order
from seq1f1b_jax.schedule.exchange import PERIOD

SIZES = ((4, 1), (4, 4), (8, 1), (8, 4), (8, 8))
"""P and C."""

COSTS: Mapping[str, dict[str, float]] = {
    "equal": {},
    "chunks 1.2": {"ratio": 1.2},
    "chunks 2.1": {"ratio": 2.1},
    "stages": {"stages": 0.1},
    "jitter": {"jitter": 0.1},
    "all a little": {"ratio": 1.2, "stages": 0.1, "jitter": 0.05},
}

Cost = Callable[[Action], float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the table and the line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exchange", description=__doc__)
    parser.add_argument("--backward", type=float, default=2.0, help="B over F")
    parser.add_argument("--out", help="file for the line of JSON")
    options = parser.parse_args(arguments)
    rows = list(measure(options.backward, SIZES))
    report.show(f"time over a rank's work, V=2, M=2P, B={options.backward:g}F", rows)
    most = {name: max(row[name] / row["free"] for row in rows) for name in WAITS}
    report.finish({"max_over_free": most, "exchange": rows}, path=options.out)
    return 0


def measure(backward: float, sizes: Sequence[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """One row per size and kind of costs."""
    for num_ranks, num_chunks in sizes:
        counts = {"num_ranks": num_ranks, "num_microbatches": 2 * num_ranks}
        ring = make_plan("seq1f1b-i", **counts, num_chunks=num_chunks, stages_per_rank=2)
        line = make_plan("seq1f1b", **counts, num_chunks=num_chunks)
        for name, spread in COSTS.items():
            if num_chunks == 1 and "ratio" in spread and len(spread) == 1:
                continue
            drawn = "stages" in spread or "jitter" in spread
            seeds = range(5) if drawn else range(1)
            times = [row(ring, line, backward, seed, **spread) for seed in seeds]
            median = {key: statistics.median(t[key] for t in times) for key in times[0]}
            yield {"P": num_ranks, "C": num_chunks, "costs": name, **median} | {
                "units, ring": max(peak_units(ring)) / 2,
                "units, line": max(peak_units(line)),
            }


def row(ring: Plan, line: Plan, backward: float, seed: int, **spread: float) -> dict[str, float]:
    """Times of one draw of costs."""
    ideal = ring.num_units * (1 + backward)
    cost = costs_of(ring, backward, seed, **spread)
    waits = {name: wait(ring, cost) / ideal for name, wait in WAITS.items()}
    return waits | {"line": by_parity(line, costs_of(line, backward, seed, **spread)) / ideal}


def costs_of(
    plan: Plan,
    backward: float,
    seed: int,
    *,
    ratio: float = 1.0,
    stages: float = 0.0,
    jitter: float = 0.0,
) -> Cost:
    """Time of every action; a forward takes `1 / stages_per_rank` in the mean."""
    rng = np.random.default_rng(seed)
    chunk = np.linspace(1, ratio, plan.num_chunks)
    stage = 1 + stages * rng.uniform(-1, 1, plan.num_stages)
    shape = (2, plan.num_stages, plan.num_microbatches, plan.num_chunks)
    noise = 1 + jitter * rng.uniform(-1, 1, shape)
    times = np.outer(stage, chunk / chunk.mean()) / plan.stages_per_rank

    def cost(action: Action) -> float:
        half = int(action.op is not Op.F)
        where = action.stage, action.microbatch, action.chunk
        return times[action.stage, action.chunk] * (1, backward)[half] * noise[half][where]

    return cost


def freely(plan: Plan, cost: Cost) -> float:
    """The order's own time."""
    ends: dict[Action, float] = {}
    clocks = [0.0] * plan.num_ranks
    for action in execution_order(plan):
        rank = plan.rank(action.stage)
        ready = max(clocks[rank], *(ends[event] for event in dependencies(action, plan)), 0.0)
        clocks[rank] = ends[action.event] = ready + cost(action)
    return max(clocks)


def every_tick(plan: Plan, cost: Cost) -> float:
    """Every rank meets its neighbours behind every action."""
    clocks = np.zeros(plan.num_ranks)
    for tick, work in enumerate(work_by_tick(plan, cost)):
        clocks = meet(clocks + work, plan, tick)
    return float(clocks.max())


def once(plan: Plan, cost: Cost) -> float:
    """Every rank meets its neighbours behind every second action."""
    clocks = np.zeros(plan.num_ranks)
    for tick, work in enumerate(work_by_tick(plan, cost)):
        clocks = clocks + work
        if tick % PERIOD:
            clocks = np.maximum(meet(clocks, plan, tick - 1), meet(clocks, plan, tick))
    return float(clocks.max())


def late(plan: Plan, cost: Cost) -> float:
    """Behind an action, every rank waits for its neighbours to have begun theirs."""
    clocks = np.zeros(plan.num_ranks)
    for tick, work in enumerate(work_by_tick(plan, cost)):
        clocks = np.maximum(clocks + work, meet(clocks, plan, tick - 1))
    return float(clocks.max())


by_parity = every_tick

WAITS = {"free": freely, "every tick": every_tick, "once": once, "late": late}


def work_by_tick(plan: Plan, cost: Cost) -> NDArray[np.float64]:
    """Time of each rank's action, `[num_ticks, num_ranks]`."""
    ticks = assign_ticks(plan)
    work = np.zeros((max(ticks.values()) + 1, plan.num_ranks))
    for action, tick in ticks.items():
        work[tick, plan.rank(action.stage)] = cost(action)
    return work


def meet(clocks: NDArray[np.float64], plan: Plan, tick: int) -> NDArray[np.float64]:
    """Clocks after a permute of what is sent in a tick."""
    after = clocks.copy()
    ring = plan.stages_per_rank > 1
    for pair in plan.exchange.pairs(tick, num_ranks=plan.num_ranks, ring=ring):
        for one, other in (pair, pair[::-1]):
            after[one] = max(after[one], clocks[other])
    return after


if __name__ == "__main__":
    raise SystemExit(main())
