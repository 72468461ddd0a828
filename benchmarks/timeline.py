"""Timing of the executor: four processes whose actions sleep, against the simulated step time.

    python -m benchmarks.timeline           about 2 minutes; sleeping takes no core
    python -m benchmarks.timeline --quick   two schedules, one round

Every schedule runs as the trainer runs it, by `run_ticks` over its lowered table, one process per
rank, messages over Gloo; but an action sleeps for its cost instead of computing. Measured over
model is the step's wall time over the makespan of the simulator's executor machine, which has no
overhead per tick. Schedules that exchange by parity also run with all neighbours exchanging in
every tick; the model of that is the lock-step machine, and the ratio of the two is the gain of
parity.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from benchmarks.common import report
from benchmarks.common.processes import run_processes
from seq1f1b_jax.ops.axes import PIPE
from seq1f1b_jax.pipeline import make_mesh
from seq1f1b_jax.pipeline.executor import scan
from seq1f1b_jax.schedule import (
    SCHEDULES,
    Action,
    Costs,
    Exchange,
    Op,
    Plan,
    TickTable,
    lower,
    make_plan,
    simulate,
)

RANKS, MICROBATCHES, CHUNKS = 4, 8, 2
COSTS = Costs(forward=0.04, backward=0.08)
"""Seconds of one action, of whatever part of the work it is; `I` and `W` take 0.04 each."""

MACHINES = {"schedule's own": "executor", "all neighbours": "lock-step"}
"""Exchange -> machine of the simulator."""

AHEAD_SECONDS = 0.5
ZERO = jax.ShapeDtypeStruct((), jnp.float32)


def main(arguments=None) -> int:
    """Measure, print the tables and the line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.timeline", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two schedules, one round")
    parser.add_argument("--rounds", type=int, default=3, help="steps of each program, after one")
    options = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    if options.quick:
        values = measure(["seq1f1b", "seq-zb-h1"], rounds=1)
    else:
        values = measure(list(SCHEDULES), rounds=options.rounds)
    report.finish(values)
    return 0


def measure(names: list[str], *, rounds: int) -> dict[str, Any]:
    """Run the schedules in four processes; returns the figures of the last line."""
    arguments = {"names": names, "rounds": rounds}
    ranks = run_processes("benchmarks.timeline:worker", arguments, num_processes=RANKS)
    rows = [
        row(name, exchange, step_seconds([rank["spans"][name][exchange] for rank in ranks]))
        for name in names
        for exchange in exchanges(sleeping_plan(name))
    ]
    report.show(f"P={RANKS}, M={MICROBATCHES}: step with slept actions (seconds)", rows)
    own = [r for r in rows if r["exchange"] == "schedule's own"]
    others = [r for r in rows if r not in own]
    by_name = {r["schedule"]: r["measured"] for r in own}
    bought = {r["schedule"]: r["measured"] / by_name[r["schedule"]] for r in others}
    report.show(
        "all neighbours over parity", [{"schedule": k, "ratio": v} for k, v in bought.items()]
    )
    ticks = {
        key: statistics.median(s for rank in ranks for s in rank[key])
        for key in ("idle", "callback")
    }
    report.show("overhead of a tick (ms)", [{k: 1e3 * v for k, v in ticks.items()}])
    return {
        "max_measured_over_model": max(r["measured_over_model"] for r in own),
        "max_measured_over_model_all_neighbours": max(r["measured_over_model"] for r in others),
        "all_neighbours_over_parity": bought,
        "tick_milliseconds": {key: 1e3 * seconds for key, seconds in ticks.items()},
        "timeline": rows,
    }


def sleeping_plan(name: str) -> Plan:
    """A named schedule at the sizes of this benchmark."""
    chunks = 1 if SCHEDULES[name].chunked_name else CHUNKS
    return make_plan(name, num_ranks=RANKS, num_microbatches=MICROBATCHES, num_chunks=chunks)


def exchanges(plan: Plan) -> list[str]:
    """Exchanges to measure: in lock-step all neighbours exchange in every tick anyway."""
    return list(MACHINES)[: 2 if plan.exchange is Exchange.PARITY else 1]


def row(name: str, exchange: str, seconds: list[float]) -> dict[str, Any]:
    """One line of the table: measured step against its model."""
    plan = sleeping_plan(name)
    model = simulate(plan, COSTS, machine=MACHINES[exchange]).makespan
    measured, spread = report.median_and_spread(seconds)
    return {
        "schedule": name,
        "C": plan.num_chunks,
        "V": plan.stages_per_rank,
        "pattern": str(plan.exchange),
        "exchange": exchange,
        "model": float(model),
        "measured": measured,
        "spread": spread,
        "measured_over_model": measured / float(model),
    }


def step_seconds(spans: list[list[list[float]]]) -> list[float]:
    """Step times from `[rank][round] -> (start, end)`: the first start to the last end."""
    return [
        max(end for _, end in turn) - min(start for start, _ in turn)
        for turn in zip(*spans, strict=True)
    ]


def worker(names: list[str], rounds: int) -> dict[str, Any]:
    """The work of every process.

    Returns:
      `spans[name][exchange]`, the (start, end) of every round, on the machine's clock; and
      `idle` and `callback`, seconds per tick of steps whose actions do nothing or sleep for 0 s.
    """
    mesh = make_mesh()
    plans = {name: sleeping_plan(name) for name in names}
    programs = {
        (name, exchange): sleeping_step(plan, mesh, COSTS, exchange)
        for name, plan in plans.items()
        for exchange in exchanges(plan)
    }
    probe = make_plan("seq1f1b", num_ranks=mesh.size, num_microbatches=32, num_chunks=CHUNKS)
    programs["idle"] = sleeping_step(probe, mesh, None)
    programs["callback"] = sleeping_step(probe, mesh, Costs(forward=0, backward=0))
    spans = {key: [] for key in programs}
    for turn in range(rounds + 1):
        for key, program in programs.items():
            span = timed(program, mesh)
            if turn:  # the first turn compiles
                spans[key].append(span)
    num_ticks = lower(probe, (1,) * CHUNKS).num_ticks
    per_tick = {
        key: [(end - start) / num_ticks for start, end in spans[key]]
        for key in ("idle", "callback")
    }
    return per_tick | {
        "spans": {
            name: {exchange: spans[name, exchange] for exchange in exchanges(plan)}
            for name, plan in plans.items()
        }
    }


def begin_together(mesh: Mesh) -> float:
    """Return in all processes at the same time, and return that time on their shared clock.

    They agree on a time ahead and sleep until then: from a collective alone they return up to
    160 ms apart (seen with four over Gloo, in steps of 40 ms, TCP's delayed acknowledgement).
    """
    now = np.array([1000 * time.monotonic()], np.int32)
    clocks = jax.make_array_from_process_local_data(NamedSharding(mesh, Spec(PIPE)), now)
    start = int(_latest(mesh)(clocks)[0]) / 1000 + AHEAD_SECONDS
    time.sleep(max(0.0, start - time.monotonic()))
    return start


@cache
def _latest(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    latest = partial(lax.pmax, axis_name=PIPE)
    return jax.jit(jax.shard_map(latest, mesh=mesh, in_specs=Spec(PIPE), out_specs=Spec()))


def timed(program: Callable[[], Any], mesh: Mesh) -> tuple[float, float]:
    """Start and end of a call that all processes begin together."""
    start = begin_together(mesh)
    jax.block_until_ready(program())
    return start, time.monotonic()


def sleeping_step(
    plan: Plan, mesh: Mesh, costs: Costs | None, exchange: str = "schedule's own"
) -> Callable[[], Any]:
    """The compiled step of a plan whose actions sleep for their cost; for None, do nothing."""
    table = lower(plan, (1,) * plan.num_chunks)
    actions = {
        op: [sleeping_action(op, chunk, plan, costs) for chunk in range(plan.num_chunks)]
        for op in table.ops
    }
    exchange = scan.exchange if exchange == "schedule's own" else all_neighbours

    def body():
        state, idle = jnp.zeros(1), jnp.zeros((1, 1, 1))
        return scan.run_ticks(table, actions, state, idle, exchange=exchange)

    return jax.jit(
        jax.shard_map(body, mesh=mesh, in_specs=(), out_specs=Spec(PIPE), check_vma=False)
    )


def sleeping_action(op: Op, chunk: int, plan: Plan, costs: Costs | None) -> Callable:
    """An action of the executor that sleeps, and whose results depend on the sleep."""
    if costs is None:
        return lambda unit, state, message: (state + message[0, 0], message + 1)
    cost = costs.per_action(plan.num_stages, plan.num_chunks)
    stages = range(plan.num_stages)
    seconds = np.array([cost(Action(op, stage, 0, chunk)) for stage in stages], np.float32)

    def sleep(unit, *values):
        zero = jax.pure_callback(_sleep, ZERO, jnp.asarray(seconds)[unit.stage], *values)
        return tuple(value + zero for value in values)

    return (lambda unit, state: sleep(unit, state)[0]) if op is Op.W else sleep


def _sleep(seconds, *values) -> np.ndarray:
    time.sleep(float(seconds))
    return np.zeros(ZERO.shape, ZERO.dtype)


def all_neighbours(message: jax.Array, table: TickTable, tick: int) -> jax.Array:
    """The exchange of the tick, then one without effect between the other neighbours."""
    message = scan.exchange(message, table, tick)
    return message + 0 * scan.exchange(message, table, tick + 1)


if __name__ == "__main__":
    raise SystemExit(main())
