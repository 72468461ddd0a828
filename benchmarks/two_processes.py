"""Seq1F1B against 1F1B with real computation: two processes of one core each, wall time.

    python -m benchmarks.two_processes      about 2 minutes on two idle cores

P=2 and M=2, so that the bubble is large: a third of the step of 1F1B and a ninth of that of Seq1F1B
with four equal chunks, which leaves a ratio of 3/4. The prediction comes from the simulator's
executor machine, with actions timed alone, in the same processes and on both cores at once. Steps
and actions of both schedules run in turn, so that a slow minute affects all of them, and only the
calmer half of the rounds counts: those in which the whole machine used the least CPU time. That
includes other programs and slowed cores, but not the waiting of our ranks.

Attention costs both the same per (query, key) pair: `xla_blockwise` visits only pairs of blocks in
which something is visible, and chunks are multiples of its block, so whole sequences and chunks
visit the same pairs of blocks. The cost per pair is measured for both, too.
"""

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np

from benchmarks.common import cases, report
from benchmarks.common.alone import time_actions, time_attention
from benchmarks.common.processes import run_processes
from benchmarks.timeline import begin_together, step_seconds, timed
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.ops.attention import get_backend
from seq1f1b_jax.pipeline import ExecutorOptions, Stage, build_step, make_mesh
from seq1f1b_jax.schedule import Costs, Plan, make_plan, simulate

RANKS, MICROBATCHES = 2, 2
BACKEND = "xla_blockwise"


@dataclass(frozen=True)
class Sizes:
    """The model and how its sequences are cut.

    Attributes:
      model_dim: width; heads are of 64.
      vocab_size: small, since only the last stage computes the head.
      lengths: tokens of the chunks, multiples of the attention block of 256. The default takes
        about the same time per chunk: later chunks see more keys, so they are shorter.
    """

    model_dim: int = 512
    vocab_size: int = 256
    lengths: tuple[int, ...] = (1024, 768, 768, 512)

    @property
    def cuts(self) -> dict[str, tuple[int, ...]]:
        """Chunk lengths by schedule."""
        return {"1f1b": (sum(self.lengths),), "seq1f1b": tuple(self.lengths)}

    def stage(self) -> Stage:
        """A llama with one layer per stage."""
        return build_stage(
            "llama",
            num_layers=RANKS,
            model_dim=self.model_dim,
            num_heads=self.model_dim // 64,
            vocab_size=self.vocab_size,
        )


def main(arguments=None) -> int:
    """Measure, print the tables and the line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.two_processes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="steps of each program, after one")
    options = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    report.finish(measure(Sizes(), rounds=options.rounds))
    return 0


def measure(sizes: Sizes, *, rounds: int) -> dict[str, Any]:
    """Run both schedules in two processes; returns the figures of the last line."""
    ranks = run_processes(
        "benchmarks.two_processes:worker",
        {"sizes": asdict(sizes), "rounds": rounds},
        num_processes=RANKS,
        timeout_seconds=3600,
    )
    actions = {
        name: [median_actions(rank["actions"][name]) for rank in ranks] for name in sizes.cuts
    }
    report.show("action alone (CPU seconds)", list(action_rows(actions)))
    rows = [row(name, sizes, ranks, predicted=predict(name, actions[name])) for name in sizes.cuts]
    report.show(f"P={RANKS}, M={MICROBATCHES}, T={sum(sizes.lengths)}: step (wall seconds)", rows)
    whole, chunked = rows
    return {
        "seq1f1b_over_1f1b_measured": chunked["measured"] / whole["measured"],
        "seq1f1b_over_1f1b_predicted": chunked["predicted"] / whole["predicted"],
        "seq1f1b_over_1f1b_fastest": chunked["fastest"] / whole["fastest"],
        "attention_per_pair_seq1f1b_over_1f1b": (
            chunked["attention_ns_per_pair"] / whole["attention_ns_per_pair"]
        ),
        "steps": rows,
        "actions": actions,
        "sizes": asdict(sizes),
    }


def row(
    name: str, sizes: Sizes, ranks: Sequence[Mapping[str, Any]], *, predicted: float
) -> dict[str, Any]:
    """One line of the table of steps, from what the processes returned."""
    seconds = step_seconds([rank["spans"][name] for rank in ranks])
    machine = ranks[0]["machine"][name]
    own = [sum(turn) for turn in zip(*(rank["own"][name] for rank in ranks), strict=True)]
    chosen = calmer_half(machine)
    measured, spread = report.median_and_spread([seconds[turn] for turn in chosen])
    attention = median(s for rank in ranks for s in rank["attention"][name])
    return {
        "schedule": name,
        "C": len(sizes.cuts[name]),
        "predicted": predicted,
        "measured": measured,
        "measured_over_predicted": measured / predicted,
        "spread": spread,
        "rounds": len(chosen),
        "own_cpu_seconds": median(own[turn] for turn in chosen),
        "all_cpu_seconds": median(machine[turn] for turn in chosen),
        "fastest": min(seconds),
        "attention_ns_per_pair": 1e9 * attention / num_pairs(sum(sizes.lengths)),
        "loss": ranks[0]["losses"][name],
    }


def calmer_half(cpu_seconds: Sequence[float]) -> list[int]:
    """Indices of the half of the rounds (rounded up) with the least CPU seconds.

    Example:
      >>> calmer_half([9.0, 4.0, 5.0])
      [1, 2]
    """
    order = sorted(range(len(cpu_seconds)), key=lambda turn: cpu_seconds[turn])
    return order[: (len(order) + 1) // 2]


def plan_of(name: str, num_chunks: int) -> Plan:
    """A schedule at the sizes of this benchmark."""
    return make_plan(name, num_ranks=RANKS, num_microbatches=MICROBATCHES, num_chunks=num_chunks)


def predict(name: str, actions: Sequence[Mapping[str, Sequence[float]]]) -> float:
    """Step seconds on the executor machine.

    Args:
      name: of the schedule.
      actions: per stage, seconds per chunk of `F` and `B`.
    """
    forward, backward = ([stage[op] for stage in actions] for op in "FB")
    costs = Costs(forward=forward, backward=backward, weights=0)
    plan = plan_of(name, len(actions[0]["F"]))
    return float(simulate(plan, costs, machine="executor").makespan)


def median_actions(turns: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """Medians over the rounds: seconds per chunk, by operation."""
    return {
        op: [median(times) for times in zip(*(turn[op] for turn in turns), strict=True)]
        for op in turns[0]
    }


def action_rows(actions: Mapping[str, Sequence[Mapping[str, Sequence[float]]]]) -> Iterator[dict]:
    """Lines of the table of actions."""
    for name, stages in actions.items():
        for index, stage in enumerate(stages):
            times = {f"{op}{c}": s for op, chunks in stage.items() for c, s in enumerate(chunks)}
            total = sum(times.values())
            yield {"schedule": name, "stage": index, "all": total, **times}


def num_pairs(num_tokens: int) -> int:
    """(query, key) pairs that a causal mask leaves."""
    return num_tokens * (num_tokens + 1) // 2


def worker(sizes: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """The work of both processes.

    Returns:
      By schedule and, except for `losses`, by round: `spans` of the steps (start and end on the
      machine's clock), CPU seconds in them of this process (`own`) and of all (`machine`), and CPU
      seconds of this stage's `actions` and of the `attention` of one sequence, each alone.
    """
    sizes = Sizes(**sizes)
    stage, mesh = sizes.stage(), make_mesh()
    batch = [np.asarray(x) for x in cases.random_batch(stage, MICROBATCHES, sum(sizes.lengths))]
    steps = {
        name: build_step(
            stage,
            plan_of(name, len(cut)),
            mesh,
            chunk_lengths=cut,
            options=ExecutorOptions(attention=BACKEND, recompute="none"),
        )
        for name, cut in sizes.cuts.items()
    }
    params = steps["1f1b"].from_canonical(jax.jit(stage.init)(jax.random.key(0)))
    programs = {name: jax.jit(step.loss_and_grads) for name, step in steps.items()}
    actions = {name: time_actions(step, params, batch) for name, step in steps.items()}
    backend = get_backend(BACKEND, platform="cpu")
    attention = {name: time_attention(stage, backend, cut) for name, cut in sizes.cuts.items()}
    found: dict[str, dict[str, list]] = {
        key: {name: [] for name in steps}
        for key in ("spans", "own", "machine", "actions", "attention")
    }
    for turn in range(rounds + 1):
        for name, program in programs.items():
            own, machine = time.process_time(), machine_cpu_seconds()
            values: dict[str, Any] = {
                "spans": timed(lambda program=program: program(params, *batch), mesh)
            }
            begin_together(mesh)
            values["own"] = time.process_time() - own
            values["machine"] = machine_cpu_seconds() - machine
            values |= {"actions": actions[name](), "attention": attention[name]()}
            if turn:  # the first turn compiles
                for key, value in values.items():
                    found[key][name].append(value)
    losses = {name: float(program(params, *batch)[0]) for name, program in programs.items()}
    return found | {"losses": losses}


def machine_cpu_seconds() -> float:
    """CPU seconds of all programs since the machine started; 0 if not on Linux."""
    counts = Path("/proc/stat")
    if not counts.is_file():
        return 0.0
    ticks = [int(word) for word in counts.read_text(encoding="ascii").split("\n")[0].split()[1:9]]
    idle, waiting = ticks[3:5]
    return (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    raise SystemExit(main())
