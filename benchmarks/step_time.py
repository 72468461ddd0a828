"""Predicted against measured step time of two real processes, over eight configurations.

    python -m benchmarks.step_time          about 6 minutes on two idle cores

P=2, a core each, over Gloo. Schedules, chunks, even and unequal, microbatches and recomputation
vary. The prediction is the simulator's executor machine with the seconds of every action, each
timed alone in the same processes (`two_processes` says how); so it is exact where the executor adds
nothing to its actions but their order and their waits. All configurations run in turn, and the
calmer half of the rounds counts. `max_time_error` is the largest |measured / predicted - 1|.
"""

import argparse
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import jax
import numpy as np

from benchmarks.common import cases, report
from benchmarks.common.alone import time_actions
from benchmarks.common.processes import run_processes
from benchmarks.timeline import begin_together, step_seconds, timed
from benchmarks.two_processes import (
    BACKEND,
    RANKS,
    Sizes,
    calmer_half,
    machine_cpu_seconds,
    median_actions,
)
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.schedule import Costs, Plan, make_plan, simulate


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
    parser.add_argument("--rounds", type=int, default=5, help="steps of each, after one")
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
        chosen = calmer_half(own[0]["machine"])
        seconds = step_seconds([one["spans"] for one in own])
        measured, spread = report.median_and_spread([seconds[turn] for turn in chosen])
        stages = [median_actions([one["actions"][turn] for turn in chosen]) for one in own]
        costs = Costs(*([stage[op] for stage in stages] for op in "FB"), weights=0)
        predicted = float(simulate(case.plan, costs, machine="executor").makespan)
        rows.append({
            "schedule": case.schedule, "chunks": "+".join(map(str, case.lengths)),
            "M": case.num_microbatches, "recompute": case.recompute,
            "predicted": predicted, "measured": measured,
            "error": measured / predicted - 1, "spread": spread,
            "loss": own[0]["loss"],
        })  # fmt: skip
    report.show("step of two processes, seconds", rows)
    errors = [abs(row["error"]) for row in rows]
    return {"max_time_error": max(errors), "median_time_error": median(errors), "rows": rows}


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
        self.found: dict[str, Any] = {"spans": [], "machine": [], "actions": []}

    def run(self, *, keep: bool) -> None:
        """A step, and then every action alone."""
        machine = machine_cpu_seconds()
        span = timed(lambda: self.program(self.params, *self.batch), self.mesh)
        begin_together(self.mesh)
        machine = machine_cpu_seconds() - machine
        actions = self.actions()
        if keep:
            for key, value in (("spans", span), ("machine", machine), ("actions", actions)):
                self.found[key].append(value)
        else:
            self.found["loss"] = float(self.program(self.params, *self.batch)[0])


if __name__ == "__main__":
    raise SystemExit(main())
