"""What the head costs a step: even stages, balanced stages, the vocabulary spread over all ranks.

    python -m benchmarks.stages                      seconds, on one core
    python -m benchmarks.stages --chunks 8 --out stages.json

Simulated on the executor's machine, not measured: times count the FLOPs of matmuls and attention,
and are over those with even stages. Chunks are cut for each column's own stages. 16 microbatches.

    balanced             `mesh.layers_per_stage=balanced`: fewer layers on the last stage
    balanced, lock-step  the same in the order of `seq1f1b-lockstep`, to compare with
    spread               even stages; behind every F of the last stage all ranks get its output,
                         compute the logits of their part of the vocabulary, and add up the output's
                         gradient. One program runs on all ranks, so by parity all of them wait for
                         each other in every second tick
    spread, lock-step    in the order of `seq1f1b-lockstep`, where all ranks run F in the same tick
    spread, late         by parity, where each collective runs beside the actions of four ticks, and
                         a B comes so much later
    spread, free         the same work, but nobody waits for another rank's part
    floor                the work of a step, divided evenly
    units in flight      on the fullest rank: by parity, in lock-step, late

The collectives themselves take no time. A `tensor` axis changes no ratio.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import report
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.schedule import (
    Action,
    Costs,
    Op,
    Plan,
    StageCost,
    assign_ticks,
    balanced_layers,
    balanced_lengths,
    make_plan,
    peak_units,
)
from seq1f1b_jax.schedule.exchange import PERIOD
from seq1f1b_jax.schedule.lowering.ticks import num_ticks
from seq1f1b_jax.schedule.simulation.layers import even_layers
from seq1f1b_jax.schedule.simulation.makespans import Stopwatch

MICROBATCHES, CHUNKS, BLOCK = 16, 4, 128
SHAPES = [
    ("gpt", "2.7b", 32768, 8),
    ("gpt", "7b", 32768, 4),
    ("gpt", "7b", 131072, 4),
    ("gpt", "13b", 32768, 4),
    ("gpt", "30b", 65536, 8),
    ("llama", "8b", 8192, 8),
    ("llama", "8b", 32768, 8),
    ("llama", "8b", 131072, 8),
]
"""Family, preset, tokens of a sequence, ranks."""
LOCKSTEP = "seq1f1b-lockstep"
TURNS = 2
"""Turns of the scan's body that a late collective runs beside."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the table and the line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stages", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--chunks", type=int, default=CHUNKS, help="chunks of a sequence")
    parser.add_argument("--out", help="file for the line of JSON")
    options = parser.parse_args(arguments)
    rows, values = [], {}
    for family, preset, seq_len, num_ranks in SHAPES:
        row = measure(family, preset, seq_len, num_ranks, num_chunks=options.chunks)
        name = f"{preset}_{seq_len}"
        values[f"balanced_over_even_{name}"] = row["balanced"]
        for how in ("spread", "spread, lock-step", "spread, late"):
            key = how.replace(", ", "_").replace("-", "")
            values[f"{key}_over_balanced_{name}"] = round(row[how] / row["balanced"], 4)
        rows.append(row)
    report.show("time of a step over that with even stages", rows)
    report.finish({**values, "rows": rows}, path=options.out)
    return 0


def measure(
    family: str, preset: str, seq_len: int, num_ranks: int, *, num_chunks: int
) -> dict[str, Any]:
    """One row of the table."""
    stage = build_stage(family, preset=preset, max_positions=seq_len)
    even = StageCost.of(stage, even_layers(stage.num_layers, num_ranks))
    plan = make_plan(
        "seq1f1b", num_ranks=num_ranks, num_microbatches=MICROBATCHES, num_chunks=num_chunks
    )

    def cut(cost: StageCost) -> tuple[int, ...]:
        return balanced_lengths(seq_len, num_chunks, cost, block=BLOCK)

    def step_time(plan: Plan, cost: StageCost) -> float:
        return Stopwatch(plan).step_time(cost.costs(cut(cost)))

    balanced = replace(even, layers_per_stage=balanced_layers(plan, even, cut))
    part = replace(even, vocab_size=-(-stage.vocab_size // num_ranks))
    head = int(head_costs(even, (seq_len,))[0])
    layer = int(replace(even, layers_per_stage=(1, 1))(0, seq_len)) - head
    floor = MICROBATCHES * (stage.num_layers * layer + head) / num_ranks
    times = {
        "balanced": step_time(plan, balanced),
        "balanced, lock-step": step_time(like(plan, name=LOCKSTEP), balanced),
        **spread_times(plan, part, cut(part)),
        "floor": floor,
    }
    return {
        "model": preset, "tokens": seq_len, "P": num_ranks,
        "head, in layers": round(head / layer, 2),
        "balanced stages": "+".join(map(str, balanced.layers_per_stage)),
        **{name: round(float(value / step_time(plan, even)), 4) for name, value in times.items()},
        "units in flight": "/".join(
            str(max(peak_units(p))) for p in (plan, like(plan, name=LOCKSTEP), later(plan))
        ),
    }  # fmt: skip


def head_costs(cost: StageCost, lengths: Sequence[int]) -> NDArray[np.int64]:
    """What the last stage does with each chunk besides its layers."""
    alone = replace(cost, layers_per_stage=(1, 1)).forward_costs(lengths)
    return alone[1] - alone[0]


def spread_times(plan: Plan, part: StageCost, lengths: Sequence[int]) -> dict[str, float]:
    """Step times with the vocabulary spread over the ranks, by how they wait for each other.

    Args:
      plan: the schedule, on a line of stages.
      part: cost whose head has one rank's part of the vocabulary.
      lengths: of the chunks.
    """
    costs, heads = part.costs(lengths), head_costs(part, lengths)
    layers = np.asarray(costs.forward).copy()
    layers[-1] -= heads
    alone = replace(costs, forward=layers)
    return {
        "spread": together_time(plan, alone, heads),
        "spread, lock-step": together_time(like(plan, name=LOCKSTEP), alone, heads),
        "spread, late": late_time(later(plan), alone, heads),
        "spread, free": Stopwatch(plan).step_time(replace(costs, forward=layers + heads)),
    }


def like(plan: Plan, *, name: str, **options: Any) -> Plan:
    """A named plan of the same sizes."""
    sizes = ("num_ranks", "num_microbatches", "num_chunks")
    return make_plan(name, **{size: getattr(plan, size) for size in sizes}, **options)


def later(plan: Plan, turns: int = TURNS) -> Plan:
    """The plan with backwards as late as `late_time` wants them."""
    # a last stage whose F is in the second tick of a turn has its B in the next turn anyway
    second = plan.exchange.tick_class(Op.F, plan.num_ranks - 1)
    return like(plan, name=plan.name, extra_warmup=2 * turns + 1 - second)


def together_time(plan: Plan, costs: Costs, heads: NDArray[np.int64]) -> float:
    """Step time where all ranks meet in every tick in which the last stage may run an F.

    Args:
      plan: the schedule, of whole backwards.
      costs: of the actions, without the head.
      heads: what every rank then does for the last stage's chunk, `[num_chunks]`.
    """
    clocks, last = np.zeros(plan.num_ranks), plan.num_ranks - 1
    for tick, actions in enumerate(by_tick(plan)):
        before = clocks.copy()
        run(actions, clocks, plan, costs)
        if tick % PERIOD == plan.exchange.tick_class(Op.F, last):
            chunks = [a.chunk for a in actions if a.op is Op.F and a.stage == last]
            clocks[:] = clocks.max() + sum(heads[chunk] for chunk in chunks)
        swap(tick, clocks, before, plan)
    return float(clocks.max())


def late_time(plan: Plan, costs: Costs, heads: NDArray[np.int64], turns: int = TURNS) -> float:
    """Step time where a collective runs beside the actions of some turns of the scan's body.

    A turn is two ticks. The output of an F of the last stage travels beside the next turns, the
    heads begin the one after these, their sum travels beside that one and more, as many in all,
    and then comes the B. At the end of a turn a rank waits for all ranks to have begun what it
    gets.

    Args:
      plan: by parity, with backwards that come so late (`later`).
      costs: of the actions, without the head.
      heads: as above.
      turns: that a collective runs beside.
    """
    clocks, last = np.zeros(plan.num_ranks), plan.num_ranks - 1
    ticks, begun = by_tick(plan), [0.0] * (turns - 1)
    sent: list[list[int]] = [[] for _ in range(turns + 1)]  # chunks, by turn
    for tick, actions in enumerate(ticks):
        if tick % PERIOD == 0:
            clocks += sum(heads[chunk] for chunk in sent[-turns - 1])
            begun.append(clocks.max())
            sent.append([])
        run(actions, clocks, plan, costs)
        sent[-1] += [a.chunk for a in actions if a.op is Op.F and a.stage == last]
        swap(tick, clocks, clocks, plan)
        if tick % PERIOD == PERIOD - 1:
            np.maximum(clocks, begun[-turns], out=clocks)
    return float(clocks.max())


def by_tick(plan: Plan) -> list[list[Action]]:
    """Actions of every tick."""
    ticks = assign_ticks(plan)
    found: list[list[Action]] = [[] for _ in range(num_ticks(ticks))]
    for action, tick in ticks.items():
        found[tick].append(action)
    return found


def run(actions: list[Action], clocks: NDArray[np.float64], plan: Plan, costs: Costs) -> None:
    """Move the clocks of the ranks that have an action."""
    cost = costs.per_action(plan.num_stages, plan.num_chunks)
    for action in actions:
        clocks[action.stage] += cost(action)


def swap(tick: int, clocks: NDArray[np.float64], before: NDArray[np.float64], plan: Plan) -> None:
    """Let the pairs of a tick wait for each other: to end it or, late, to have begun it."""
    late = plan.exchange.late
    met = (before if late else clocks).copy()
    for source, other in plan.exchange.pairs(tick - late, num_ranks=plan.num_ranks, ring=False):
        for one, two in ((source, other), (other, source)):
            clocks[one] = max(clocks[one], met[two])


if __name__ == "__main__":
    raise SystemExit(main())
