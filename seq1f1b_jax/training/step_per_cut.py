"""The compiled training step: one program, or one per cut where chunks follow the documents."""

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

from seq1f1b_jax.data import Batch, mean_visible_keys
from seq1f1b_jax.host.progress import Waiting
from seq1f1b_jax.host.sizes import size_text
from seq1f1b_jax.plan.order import chunk_lengths
from seq1f1b_jax.schedule import mean_over_layers
from seq1f1b_jax.training.faults.watchdog import Watchdog
from seq1f1b_jax.training.optimizer import learning_rate_schedule
from seq1f1b_jax.training.setup import Setup
from seq1f1b_jax.training.step import TrainState, make_train_step


def make_step(
    setup: Setup, state: TrainState, batch: Batch, *, watchdog: Watchdog, waiting: Waiting
) -> Callable:
    """The compiled step; cut anew for every batch where the partition follows the batch."""
    config = setup.config
    if config.watchdog.ticks:
        setup = replace(setup, pipeline=setup.pipeline.traced(watchdog.actions))
    by_batch = config.data.packing == "documents" and config.schedule.documents == "batch"
    if by_batch and config.schedule.partition != "even":
        return StepPerCut(setup, watchdog=watchdog, waiting=waiting)
    return compile_step(setup, state, batch, waiting=waiting)


def compile_step(
    setup: Setup, state: TrainState, batch: Batch, *, waiting: Waiting,
    what: str = "the training step",
) -> Callable:
    """Compile the train step ahead; reports how long that took and what the step allocates."""
    config = setup.config
    schedule = learning_rate_schedule(config.optimizer, config.train.num_steps)
    step = make_train_step(setup.pipeline, setup.optimizer, learning_rate=schedule)
    with waiting(f"compiling {what}") as details:
        step = step.lower(state, *batch).compile()
        if (memory := step.memory_analysis()) is not None:
            temporary = size_text(memory.temp_size_in_bytes)
            kept = size_text(memory.argument_size_in_bytes)
            details.append(
                f"per device {temporary} of temporaries, {kept} of parameters and optimizer"
            )
    return step


class StepPerCut:
    """A step `(state, tokens, targets, starts)` whose cuts of the sequences follow their documents.

    Chunks of equal cost differ from batch to batch. Each cut is a program, compiled at its first
    use and kept. Parameters are sharded in the same way under every cut.

    Args:
      setup: of the run; its own chunk lengths are not used.
      watchdog: does not count compilations as part of a step.
      waiting: shows that a step compiles.
    """

    def __init__(self, setup: Setup, *, watchdog: Watchdog, waiting: Waiting):
        self._setup, self._watchdog, self._waiting = setup, watchdog, waiting
        self._steps: dict[tuple[int, ...], Callable] = {}

    def __call__(self, state: TrainState, *batch):
        """Run the step of the batch's own cut."""
        setup = setup_for(self._setup, Batch(*batch))
        lengths = setup.pipeline.table.chunk_lengths
        if lengths not in self._steps:
            ends = list(accumulate(lengths))
            what = f"the training step, cut {len(self._steps) + 1} with chunks that end at {ends}"
            with self._watchdog.paused():
                self._steps[lengths] = compile_step(
                    setup, state, Batch(*batch), waiting=self._waiting, what=what
                )
        return self._steps[lengths](state, *batch)


def setup_for(setup: Setup, batch: Batch) -> Setup:
    """The setup whose chunks cost the same for this batch."""
    visible_keys = mean_over_layers(
        setup.cost.windows, lambda window: mean_visible_keys(batch.starts, window=window)
    )
    cost = replace(setup.cost, visible_keys=visible_keys)
    measured = setup.measured and replace(setup.measured, sizes=cost)
    pipeline = setup.pipeline
    lengths = chunk_lengths(
        setup.config, cost, plan=pipeline.plan, tile=pipeline.attention.block, measured=measured
    )
    pipeline = pipeline.with_lengths(lengths)
    return replace(setup, cost=cost, measured=measured, pipeline=pipeline)
