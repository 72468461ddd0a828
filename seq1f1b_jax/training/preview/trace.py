"""`--trace`: one step measured action by action, drawn under its prediction.

The prediction is the simulator's executor machine with the counted FLOPs of every action, or with
measured costs where the run has them, scaled so that all actions together take as long as measured:
what remains to be seen is how the work is spread and where a device waits.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from seq1f1b_jax import picture
from seq1f1b_jax.cli.devices import num_cores
from seq1f1b_jax.data import Batch
from seq1f1b_jax.host.progress import Waiting, waiting
from seq1f1b_jax.picture import Span, Timeline
from seq1f1b_jax.pipeline.executor.trace import Measured, Recorder
from seq1f1b_jax.schedule import simulate
from seq1f1b_jax.training.setup import Setup
from seq1f1b_jax.training.step import TrainState

SUFFIXES = ("svg", "html", "json")


class Trace(NamedTuple):
    """A step as predicted and as measured, times in milliseconds."""

    predicted: Timeline
    measured: Timeline


def trace_step(
    setup: Setup,
    state: TrainState,
    batch: Batch,
    *,
    folder: Path,
    say: Callable[[str], None] = print,
    waiting: Waiting = waiting,
) -> Trace:
    """Run one step twice with recorded actions, write the second down, change nothing.

    Args:
      setup: the run.
      state: parameters to run with; they are not updated.
      batch: tokens and targets of one step.
      folder: gets `trace.svg`, `trace.html` and `trace.json` (for Perfetto).
      say: prints a line.
      waiting: shows that it compiles.
    """
    recorder = Recorder()
    step = jax.jit(setup.pipeline.traced(recorder).loss_and_grads)
    with waiting("compiling the traced step"):
        step = step.lower(state.params, *batch).compile()
    for _ in range(2):  # the first one warms up
        recorder.clear()
        jax.block_until_ready(step(state.params, *batch))
    jax.effects_barrier()
    shared = sharing(setup.mesh, num_cores())
    trace = compare(setup, recorder.records, notes=(shared,) if shared else ())
    for suffix in SUFFIXES:
        picture.write(trace, folder / f"trace.{suffix}")
    say(
        f"traced one step: {trace.measured.end:.0f} ms measured, {trace.predicted.end:.0f} ms "
        f"predicted for the same work; drawn in {folder / 'trace.html'} (also .svg and .json)"
    )
    if shared:
        say(
            f"note: {shared}: measured is how they share these, not what as many devices of their "
            "own would take"
        )
    return trace


def sharing(mesh: Mesh, cores: int) -> str | None:
    """How many virtual devices share how many cores; None where each has its own.

    Args:
      mesh: of the run.
      cores: that they may use.

    Example:
      >>> from types import SimpleNamespace
      >>> from numpy import array
      >>> devices = array([SimpleNamespace(platform="cpu")] * 4)
      >>> sharing(SimpleNamespace(size=4, devices=devices), 2)
      '4 virtual devices on 2 cores'
    """
    if mesh.devices.flat[0].platform != "cpu" or cores >= mesh.size:
        return None
    return f"{mesh.size} virtual devices on {cores} core{'s' * (cores > 1)}"


def compare(
    setup: Setup, records: tuple[Measured, ...], *, notes: tuple[str, ...] = ()
) -> Trace:
    """Compare the records of a step with the simulation of the same work.

    Args:
      setup: of the run.
      records: of the step's actions.
      notes: about the measurement, for the drawing.
    """
    plan = setup.pipeline.plan
    zero = min(record.start_seconds for record in records)
    spans = tuple(
        Span(plan.rank(r.action.stage), r.action, *(1e3 * (t - zero) for t in r[1:]))
        for r in records
    )
    work = sum(span.end - span.start for span in spans)
    costs = setup.time_cost.costs(setup.pipeline.table.chunk_lengths)
    scale = work / sum(simulate(plan, costs).busy)
    simulation = simulate(plan, costs.scaled(scale), machine="executor")
    predicted = picture.timeline_of(simulation, title=f"{plan.name}, predicted", unit="ms")
    measured = Timeline(
        f"{plan.name}, measured",
        plan.num_ranks,
        spans,
        "ms",
        notes=(f"step {max(span.end for span in spans):.4g} ms", *notes),
    )
    return Trace(predicted, measured)
