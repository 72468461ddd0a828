"""`--trace`: one step measured action by action, drawn under its prediction.

The prediction is the simulator's executor machine with the counted FLOPs of every action, scaled so
that all actions together take as long as measured: what is left to see is how the work is spread
and where a device waits.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

from seq1f1b_jax import picture
from seq1f1b_jax.picture import Span, Timeline
from seq1f1b_jax.pipeline.trace import Measured, Recorder
from seq1f1b_jax.schedule import simulate
from seq1f1b_jax.training.setup import Setup
from seq1f1b_jax.training.step import TrainState

SUFFIXES = ("svg", "html", "json")


class Trace(NamedTuple):
    """A step as predicted and as measured, times in milliseconds."""

    predicted: Timeline
    measured: Timeline


def trace_step(setup: Setup, state: TrainState, batch, *, folder: Path, say: Callable) -> Trace:
    """Run one step twice with recorded actions, write the second down, change nothing.

    Args:
      setup: the run.
      state: parameters to run with; they are not updated.
      batch: tokens and targets of one step.
      folder: gets `trace.svg`, `trace.html` and `trace.json` (for Perfetto).
      say: tells the user a line.
    """
    recorder = Recorder()
    step = jax.jit(setup.pipeline.traced(recorder).loss_and_grads)
    for _ in range(2):  # the first one compiles
        recorder.clear()
        jax.block_until_ready(step(state.params, *batch))
    jax.effects_barrier()
    trace = compare(setup, recorder.records)
    for suffix in SUFFIXES:
        picture.write(trace, folder / f"trace.{suffix}")
    say(
        f"traced one step: {trace.measured.end:.0f} ms measured, {trace.predicted.end:.0f} ms "
        f"predicted for the same work; drawn in {folder / 'trace.html'} (also .svg and .json)"
    )
    return trace


def compare(setup: Setup, records: tuple[Measured, ...]) -> Trace:
    """Put the records of a step beside the simulation of the same work."""
    plan = setup.pipeline.plan
    zero = min(record.start_seconds for record in records)
    spans = tuple(
        Span(plan.rank(r.action.stage), r.action, *(1e3 * (t - zero) for t in r[1:]))
        for r in records
    )
    work = sum(span.end - span.start for span in spans)
    counted = setup.cost.costs(setup.pipeline.table.chunk_lengths)
    per_flop = work / sum(simulate(plan, counted).busy)
    simulation = simulate(plan, counted.scaled(per_flop), machine="executor")
    predicted = picture.timeline_of(simulation, title=f"{plan.name}, predicted", unit="ms")
    measured = Timeline(
        f"{plan.name}, measured",
        plan.num_stages,
        spans,
        "ms",
        notes=(f"step {max(span.end for span in spans):.4g} ms",),
    )
    return Trace(predicted, measured)
