"""Chunk lengths by measured costs against even and FLOP-equal ones: two processes, wall time.

    python -m benchmarks.partition          about 3 minutes on two idle cores
    python -m benchmarks.partition --quick  a small model, two rounds

One process of one core profiles a stage, as `python -m seq1f1b_jax.plan profile` does but in CPU
seconds, which other programs disturb less, and times the chunks of the cut that follows from them
too: how far the fit is from those is the error of interpolation. Then two processes of one core
each run steps of the three cuts in turn, over Gloo, and only the calmer half of the rounds counts,
as in `two_processes`. Where two cuts are alike, their ratio is noise.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.common import cases, report
from benchmarks.common.processes import run_processes
from benchmarks.timeline import begin_together, step_seconds, timed
from benchmarks.two_processes import calmer_half, machine_cpu_seconds
from seq1f1b_jax.config import Config, DataConfig, ExecutorConfig, MeshConfig, ScheduleConfig
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline import Stage
from seq1f1b_jax.pipeline.build import choose_attention
from seq1f1b_jax.schedule import Op
from seq1f1b_jax.schedule.simulation.cost_table import CostTable, Row
from seq1f1b_jax.schedule.simulation.measured import MeasuredCosts
from seq1f1b_jax.training.preview.predict import predict_time
from seq1f1b_jax.training.profile.grid import Cut, Point
from seq1f1b_jax.training.profile.run import make_subject, profile
from seq1f1b_jax.training.profile.timing import Work, measure
from seq1f1b_jax.training.setup import (
    Setup,
    choose_plan,
    chunk_lengths,
    make_setup,
    stage_cost,
)

RANKS = 2
PARTITIONS = ("even", "balanced", "measured")


@dataclass(frozen=True)
class Sizes:
    """The model and the step.

    Attributes:
      model_dim: width; heads are of 64.
      num_layers: of the model.
      vocab_size: of the head, which the last stage has alone.
      seq_len: tokens of a sequence.
      num_chunks: of a sequence.
      num_microbatches: of a step.
      block: chunks are multiples of it.
    """

    model_dim: int = 128
    num_layers: int = 2
    vocab_size: int = 1024
    seq_len: int = 2048
    num_chunks: int = 4
    num_microbatches: int = 4
    block: int = 128

    def stage(self) -> Stage:
        """A llama."""
        return build_stage(
            "llama", num_layers=self.num_layers, model_dim=self.model_dim,
            num_heads=self.model_dim // 64, vocab_size=self.vocab_size,
        )

    def config(self, partition: str, costs: str | None = None) -> Config:
        """The settings of a run."""
        return Config(
            mesh=MeshConfig(pipe=RANKS), data=DataConfig(seq_len=self.seq_len),
            executor=ExecutorConfig(attention="xla_blockwise"),
            schedule=ScheduleConfig(
                num_chunks=self.num_chunks, num_microbatches=self.num_microbatches,
                block=self.block, partition=partition, costs=costs,
            ),
        )


QUICK = Sizes(model_dim=64, seq_len=256, num_chunks=2, num_microbatches=2, block=32)


def main(arguments=None) -> int:
    """Measure, print the tables and the line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.partition", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="steps of each cut, after one")
    parser.add_argument("--seconds", type=float, default=30.0, help="of profiling")
    parser.add_argument("--quick", action="store_true", help="a small model, two rounds")
    options = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")
    if options.quick:
        report.finish(measured_values(QUICK, rounds=2, seconds=1.0))
    else:
        report.finish(measured_values(Sizes(), rounds=options.rounds, seconds=options.seconds))
    return 0


def measured_values(sizes: Sizes, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Profile, run the three cuts; returns the figures of the last line."""
    with tempfile.TemporaryDirectory() as folder:
        costs = str(Path(folder, "costs.json"))
        arguments = {"sizes": asdict(sizes), "costs": costs}
        (timed_rows,) = run_processes(
            "benchmarks.partition:profiler", {**arguments, "seconds": seconds}, num_processes=1,
            timeout_seconds=3600,
        )
        points = error_rows(sizes, CostTable.load(costs), [Row(*row) for row in timed_rows])
        ranks = run_processes(
            "benchmarks.partition:worker", {**arguments, "rounds": rounds}, num_processes=RANKS,
            timeout_seconds=3600,
        )
    report.show("chunks of the measured cut: milliseconds by the fit, and measured", points)
    rows = [step_row(name, ranks) for name in PARTITIONS]
    report.show(
        f"P={RANKS}, M={sizes.num_microbatches}, T={sizes.seq_len}: step (wall seconds)", rows
    )
    by_name = {row["partition"]: row for row in rows}
    measured, errors = by_name["measured"], [abs(point["error"]) for point in points]
    return {
        **{
            f"measured_over_{name}": measured["measured"] / by_name[name]["measured"]
            for name in PARTITIONS[:2]
        },
        **{
            f"measured_over_{name}_predicted": measured["predicted"] / by_name[name]["predicted"]
            for name in PARTITIONS[:2]
        },
        "max_interpolation_error": max(errors),
        "median_interpolation_error": float(np.median(errors)),
        "steps": rows,
        "points": points,
        "sizes": asdict(sizes),
    }


def error_rows(sizes: Sizes, table: CostTable, timed_rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Lines of the table of chunks: the fit against what was measured beside it."""
    layers = (sizes.num_layers // RANKS,) * RANKS
    stage = sizes.stage()
    costs = MeasuredCosts(table, stage_cost(sizes.config("even"), stage, layers))
    found = []
    for row in timed_rows:
        chunk = costs.terms(row.offset, row.length)
        fitted = table.num_layers * costs.parts[Op(row.op)].layers.seconds(chunk)
        found.append({
            "op": row.op, "length": row.length, "offset": row.offset, "fit": 1e3 * fitted,
            "measured": 1e3 * row.layers, "error": fitted / row.layers - 1,
        })  # fmt: skip
    return found


def step_row(name: str, ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One line of the table of steps, from what the processes returned."""
    seconds = step_seconds([rank["spans"][name] for rank in ranks])
    chosen = calmer_half(ranks[0]["machine"][name])
    measured, spread = report.median_and_spread([seconds[turn] for turn in chosen])
    predicted = ranks[0]["predicted"][name]
    return {
        "partition": name,
        "lengths": "+".join(map(str, ranks[0]["lengths"][name])),
        "predicted": predicted,
        "measured": measured,
        "measured_over_predicted": measured / predicted,
        "spread": spread,
        "rounds": len(chosen),
        "fastest": min(seconds),
        "loss": ranks[0]["losses"][name],
    }


def profiler(sizes: Mapping[str, Any], costs: str, seconds: float) -> list[Row]:
    """Profile a stage into `costs`; then time the chunks of the measured cut."""
    sizes = Sizes(**sizes)
    stage = sizes.stage()
    table = profile(
        sizes.config("even"), seconds=seconds, stage=stage, clock=time.process_time
    )
    table.save(costs)
    subject = make_subject(sizes.config("even"), stage)
    plan, _ = choose_plan(subject.config.schedule, num_ranks=RANKS)
    tile = choose_attention(stage, subject.mesh, subject.profiled.step.options).block
    lengths = chunk_lengths(  # as a run does, whose ranks need not be here
        sizes.config("measured", costs), subject.cost, plan=plan, tile=tile,
        measured=MeasuredCosts(table, subject.cost),
    )
    starts = accumulate(lengths, initial=0)
    points = {c: Point(n, s) for c, (s, n) in enumerate(zip(starts, lengths, strict=False))}
    work = Work(Cut(lengths, points), False, (Op.F, Op.B))
    return list(measure(subject.profiled, work, seconds=seconds / 3, clock=time.process_time))


def worker(sizes: Mapping[str, Any], costs: str, rounds: int) -> dict[str, Any]:
    """The work of both processes: steps of the three cuts in turn.

    Returns:
      By partition: `spans` of the steps (start and end on the machine's clock), CPU seconds of the
      whole machine in them (`machine`), `lengths`, `predicted` seconds of a step, and `losses`.
    """
    sizes = Sizes(**sizes)
    stage = sizes.stage()
    setups = setups_of(sizes, stage, costs)
    mesh = setups["even"].mesh
    batch = [
        np.asarray(x) for x in cases.random_batch(stage, sizes.num_microbatches, sizes.seq_len)
    ]
    params = setups["even"].pipeline.from_canonical(jax.jit(stage.init)(jax.random.key(0)))
    programs = {name: jax.jit(s.pipeline.loss_and_grads) for name, s in setups.items()}
    found: dict[str, Any] = {key: {name: [] for name in setups} for key in ("spans", "machine")}
    for turn in range(rounds + 1):
        for name, program in programs.items():
            machine = machine_cpu_seconds()
            span = timed(lambda program=program: program(params, *batch), mesh)
            begin_together(mesh)
            if turn:  # the first turn compiles
                found["spans"][name].append(span)
                found["machine"][name].append(machine_cpu_seconds() - machine)
    measured = setups["measured"].measured
    return found | {
        "lengths": {name: s.pipeline.table.chunk_lengths for name, s in setups.items()},
        "predicted": {
            name: float(predict_time(replace(s, measured=measured)).makespan)
            for name, s in setups.items()
        },
        "losses": {name: float(program(params, *batch)[0]) for name, program in programs.items()},
    }


def setups_of(sizes: Sizes, stage: Stage, costs: str) -> dict[str, Setup]:
    """The three runs."""
    return {
        name: make_setup(sizes.config(name, costs if name == "measured" else None), stage)
        for name in PARTITIONS
    }


if __name__ == "__main__":
    raise SystemExit(main())
