"""Chunks that are balanced for the documents of each step."""

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

from seq1f1b_jax.data import Batch, mean_visible_keys
from seq1f1b_jax.training.faults.watchdog import Watchdog
from seq1f1b_jax.training.setup import Setup, chunk_lengths
from seq1f1b_jax.training.step import TrainState

Compile = Callable[..., Callable]


class StepByCut:
    """A step `(state, tokens, targets, starts)` that cuts its sequences as their documents lie.

    Chunks of equal cost lie elsewhere in every batch. Each cut is a program of its own, compiled
    when it first comes up and kept. Parameters lie on the mesh in the same way under every cut.

    Args:
      setup: of the run; its own chunk lengths are not used.
      compile_step: `(setup, state, batch, *, what) -> step`, which tells what it compiles.
      watchdog: does not count compilations as part of a step.
    """

    def __init__(self, setup: Setup, compile_step: Compile, watchdog: Watchdog):
        self._setup, self._compile, self._watchdog = setup, compile_step, watchdog
        self._steps: dict[tuple[int, ...], Callable] = {}

    def __call__(self, state: TrainState, *batch):
        """Run the step of the batch's own cut."""
        setup = setup_for(self._setup, Batch(*batch))
        lengths = setup.pipeline.table.chunk_lengths
        if lengths not in self._steps:
            ends = list(accumulate(lengths))
            what = f"the training step, cut {len(self._steps) + 1} with chunks that end at {ends}"
            with self._watchdog.paused():
                step = self._compile(setup, state, Batch(*batch), what=what)
            self._steps[lengths] = step
        return self._steps[lengths](state, *batch)


def setup_for(setup: Setup, batch: Batch) -> Setup:
    """The setup whose chunks cost the same for this batch."""
    visible_keys = mean_visible_keys(batch.starts, window=setup.cost.window)
    cost = replace(setup.cost, visible_keys=visible_keys)
    lengths = chunk_lengths(setup.config, cost)
    return replace(setup, cost=cost, pipeline=setup.pipeline.with_lengths(lengths))
