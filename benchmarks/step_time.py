"""Predicted against measured step time of two real processes, over eight configurations.

    python -m benchmarks.step_time          about 24 minutes on two idle cores

P=2, a core each, over Gloo. Schedules, chunks, even and unequal, microbatches and recomputation
vary. The prediction is the simulator's executor machine with the seconds of every action, each
timed alone in the same processes (`two_processes` says how); so it is exact where the executor adds
nothing to its actions but their order and their waits.

An action takes 10 to 25 % more at one time than at another, and ranks that wait for each other wait
for the slower one. Seconds of the mean action would foretell too little, so every action of every
microbatch is timed, and a round is compared with what its own seconds foretell.
`max_time_error` is the largest |measured / predicted - 1|, where the ratio is the median of rounds.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import jax
import numpy as np

from benchmarks.common import cases, report
from benchmarks.common.alone import time_actions
from benchmarks.common.processes import run_processes
from benchmarks.timeline import begin_together, step_seconds, timed
from benchmarks.two_processes import BACKEND, RANKS, Sizes
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.schedule import Action, Costs, Op, Plan, make_plan, simulate

Seconds = Sequence[Mapping[str, Sequence[float]]]
"""Of each microbatch, by operation, of each chunk."""


@dataclass(frozen=True)
class Case:
    """A configuration.

    Attributes:
      schedule: its name.
      lengths: tokens of the chunks.
      recompute: policy.
      num_microbatches: of a step.
    """

    schedule: str
    lengths: tuple[int, ...]
    recompute: str = "none"
    num_microbatches: int = 2

    @property
    def plan(self) -> Plan:
        """The order of work."""
        return make_plan(
            self.schedule, num_ranks=RANKS, num_microbatches=self.num_microbatches,
            num_chunks=len(self.lengths),
        )


CASES = (
    Case("1f1b", (3072,)),
    Case("1f1b", (3072,), "full"),
    Case("1f1b", (3072,), num_microbatches=4),
    Case("seq1f1b", (1792, 1280)),
    Case("seq1f1b", (1024, 768, 768, 512)),
    Case("seq1f1b", (768, 768, 768, 768)),
    Case("seq1f1b", (1024, 768, 768, 512), "full"),
    Case("seq1f1b", (1024, 768, 768, 512), "selective", 4),
)
TOY = (Case("1f1b", (96,)), Case("seq1f1b", (32, 24, 24, 16), "full"))


def main(arguments=None) -> int:
    """Measure, print the table and the line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_time", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="steps of each, after one")
    parser.add_argument("--out", help="file for the line of JSON")
    options = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    values = measure(Sizes(), CASES, rounds=options.rounds)
    report.finish(values, path=options.out)
    return 0


def measure(sizes: Sizes, cases: tuple[Case, ...], *, rounds: int) -> dict[str, Any]:
    """Run the configurations in two processes."""
    ranks = run_processes(
        "benchmarks.step_time:worker",
        {"sizes": asdict(sizes), "cases": [asdict(case) for case in cases], "rounds": rounds},
        num_processes=RANKS, timeout_seconds=3600,
    )
    rows = []
    for index, case in enumerate(cases):
        own = [rank[index] for rank in ranks]
        measured = step_seconds([one["spans"] for one in own])
        predicted = [predict(case, turn) for turn in zip(*(o["actions"] for o in own), strict=True)]
        ratios = [ours / model for ours, model in zip(measured, predicted, strict=True)]
        ratio, spread = report.median_and_spread(ratios)
        rows.append({
            "schedule": case.schedule, "chunks": "+".join(map(str, case.lengths)),
            "M": case.num_microbatches, "recompute": case.recompute,
            "predicted": median(predicted), "measured": median(measured),
            "error": ratio - 1, "spread": spread,
            "loss": own[0]["loss"],
        })  # fmt: skip
    report.show("step of two processes, seconds", rows)
    errors = [abs(row["error"]) for row in rows]
    return {"max_time_error": max(errors), "median_time_error": median(errors), "rows": rows}


def predict(case: Case, ranks: Sequence[Seconds]) -> float:
    """Step seconds on the executor machine, every action with its own.

    Example:
      >>> alone = [{"F": [1.0], "B": [2.0]}] * 2
      >>> predict(Case("1f1b", (8,)), [alone, alone])  # (M + P - 1)(F + B)
      9.0
    """
    seconds = {
        Action(Op(op), stage, microbatch, chunk): value
        for stage, microbatches in enumerate(ranks)
        for microbatch, actions in enumerate(microbatches)
        for op, chunks in actions.items()
        for chunk, value in enumerate(chunks)
    }
    return float(simulate(case.plan, EachAction(seconds=seconds), machine="executor").makespan)


@dataclass(frozen=True)
class EachAction(Costs):
    """Costs of which every action has its own, equal ones of other microbatches too.

    Attributes:
      seconds: of every action.
    """

    forward: float = 0
    backward: float = 0
    seconds: Mapping[Action, float] = field(default_factory=dict)

    def per_action(self, num_stages: int, num_chunks: int) -> Callable[[Action], float]:
        """The cost of an action as a function."""
        return self.seconds.__getitem__


def worker(sizes: dict[str, Any], cases: list[dict[str, Any]], rounds: int) -> list[dict]:
    """The work of both processes; per configuration what its rounds took."""
    measured = [_Measured(Sizes(**sizes), Case(**case)) for case in cases]
    for turn in range(rounds + 1):
        for one in measured:
            one.run(keep=turn > 0)
    return [one.found for one in measured]


class _Measured:
    """A configuration that is compiled once, and run in every round."""

    def __init__(self, sizes: Sizes, case: Case) -> None:
        stage, self.mesh = sizes.stage(), make_mesh()
        lengths = tuple(case.lengths)
        batch = cases.random_batch(stage, case.num_microbatches, sum(lengths))
        self.batch = [np.asarray(x) for x in batch]
        step = build_step(
            stage, case.plan, self.mesh, chunk_lengths=lengths,
            options=ExecutorOptions(attention=BACKEND, recompute=case.recompute),
        )
        self.params = step.from_canonical(jax.jit(stage.init)(jax.random.key(0)))
        self.program = jax.jit(step.loss_and_grads)
        self.actions = time_actions(step, self.params, self.batch)
        self.microbatches = range(case.num_microbatches)
        self.found: dict[str, Any] = {"spans": [], "actions": []}

    def run(self, *, keep: bool) -> None:
        """A step, and then every action alone."""
        span = timed(lambda: self.program(self.params, *self.batch), self.mesh)
        begin_together(self.mesh)
        actions = [self.actions() for _ in self.microbatches]
        if keep:
            self.found["spans"].append(span)
            self.found["actions"].append(actions)
        else:
            self.found["loss"] = float(self.program(self.params, *self.batch)[0])


if __name__ == "__main__":
    raise SystemExit(main())
