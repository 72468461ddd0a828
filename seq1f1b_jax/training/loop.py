"""The loop over steps: batch, step, host reads, metrics, evaluation, checkpoint, stop."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jax.errors import JaxRuntimeError

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data import Batch, Prefetcher
from seq1f1b_jax.distributed import ALONE, Group
from seq1f1b_jax.host.interrupt import Agreement, stop_on_signals
from seq1f1b_jax.host.progress import ProgressReport
from seq1f1b_jax.pipeline.stage import Params
from seq1f1b_jax.training.checkpoint.checkpointer import Checkpointer
from seq1f1b_jax.training.evaluation import Losses
from seq1f1b_jax.training.faults.watchdog import Watchdog
from seq1f1b_jax.training.preview.record import peak_bytes
from seq1f1b_jax.training.profiler import NO_PROFILE, StepProfiler
from seq1f1b_jax.training.reports.events import EVALUATE, FINISH, NO_EVENTS, SAVE, STEP, Events
from seq1f1b_jax.training.reports.metrics import MetricsWriter, NoMetrics
from seq1f1b_jax.training.setup import Setup
from seq1f1b_jax.training.step import StepMetrics, TrainState

FAILED_SECONDS = 30.0


@dataclass(frozen=True, eq=False)
class Loop:
    """A run from some step to the last.

    Attributes:
      batch_of: the batch of a step, on the devices.
      step: the compiled `(state, *batch) -> (state, metrics)`.
      evaluate: held-out losses of parameters; `bigram` is the bigram model's.
      meta: what every checkpoint records.
      shapes: of the state free of topology.
      group: the processes of the run.
      watchdog: ends a step that makes no progress.
      progress: shows how far the run is.
      events: records the phases.
      profiler: makes profiles of some steps.
      drawn: what each source of a mixture has given after so many steps, as numbers to record.
    """

    setup: Setup
    batch_of: Callable[[int], Batch]
    step: Callable[..., tuple[TrainState, StepMetrics]]
    checkpointer: Checkpointer
    metrics: MetricsWriter | NoMetrics
    evaluate: Callable[[Params], Losses]
    bigram: float
    meta: Mapping[str, Any]
    shapes: TrainState
    progress: ProgressReport
    group: Group = ALONE
    watchdog: Watchdog | None = None
    events: Events = NO_EVENTS
    profiler: StepProfiler = NO_PROFILE
    drawn: Callable[[int], Mapping[str, float]] = lambda step: {}

    def run(self, state: TrainState, start: int) -> tuple[TrainState, bool]:
        """Steps `start ... num_steps - 1`; also whether the last one was reached.

        Ctrl-C, SIGTERM and SIGHUP finish the step, save and return without a further evaluation.
        The lines of a step in `metrics.jsonl` are written before the step is saved, so that none is
        missing when a killed run continues.

        Raises:
          UserError: a loss or gradient that is not finite, whose step is not saved; data
            that can no longer be read.
        """
        config = self.setup.config
        num_steps, save_every = config.train.num_steps, config.checkpoint.every
        eval_every = config.train.eval_every or num_steps
        finished = False
        with (
            stop_on_signals() as stop,
            self.progress as progress,
            Prefetcher(self.batch_of, range(start, num_steps)) as batches,
        ):
            agreement = Agreement(self.group, stop)
            for index in range(start, num_steps):
                self.events.begin(STEP, step=index)
                self.profiler.before(index)
                state, values = self._one_step(state, index, batches)
                self.profiler.after(index)
                self.metrics.write(index, **values)
                if index == start:
                    self.events.memory(**peak_bytes(self.setup.mesh))
                progress.update(
                    index + 1, loss=values["loss"], step_seconds=values["step_seconds"],
                    tokens_per_second=values["tokens_per_second"],
                )
                finished = index + 1 == num_steps
                stopping = agreement.is_last(index) and not finished
                failed = True
                try:
                    if finished or ((index + 1) % eval_every == 0 and not stopping):
                        progress.message(self._evaluate(state, index))
                    failed = False
                finally:  # an evaluation that fails, for lack of memory say, loses no step
                    if self.group.count == 1:  # a signal during the evaluation
                        stopping = agreement.is_last(index) and not finished
                    due = finished or stopping or (index + 1) % save_every == 0
                    if due and not (failed and self._failed_alone()):
                        self._save(state, index + 1)
                if stopping:
                    break
            self.events.begin(FINISH)
            self.checkpointer.wait()  # here, where a signal does not end the process
        return state, finished

    def _one_step(
        self, state: TrainState, index: int, batches: Prefetcher[Batch]
    ) -> tuple[TrainState, dict[str, float]]:
        began, waited = time.perf_counter(), batches.waited_seconds
        batch = self._next(batches, state, index)
        if self.watchdog:
            self.watchdog.begin(index)
        state, metrics = self.step(state, *batch)
        loss, grad_norm, update_norm, learning_rate = map(float, metrics[:-1])
        num_tokens, num_pairs = map(float, metrics.work)
        if self.watchdog:
            self.watchdog.finish()
        seconds = time.perf_counter() - began
        self._check_finite(index, loss=loss, gradient_norm=grad_norm, update_norm=update_norm)
        flops = self.setup.cost.model_flops(num_tokens=num_tokens, num_pairs=num_pairs)
        return state, {
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": learning_rate,
            "step_seconds": seconds,
            "data_seconds": batches.waited_seconds - waited,
            "tokens_per_second": num_tokens / seconds,
            "positions_per_second": batch.tokens.size / seconds,
            "model_flops_per_second": flops / seconds,
        }

    def _next(self, batches: Prefetcher[Batch], state: TrainState, index: int) -> Batch:
        """The next batch; if the data is gone, finished steps are saved first.

        Raises:
          UserError: the data can no longer be read.
        """
        try:
            return next(batches)
        except UserError:
            alone = self.group.count == 1  # others may have their batch, and will not come to save
            if alone and index and index not in self.checkpointer.steps():
                self._save(state, index)
                self.checkpointer.wait()
            raise

    def _check_finite(self, index: int, **values: float) -> None:
        if all(map(math.isfinite, values.values())):
            return
        numbers = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items())
        self.checkpointer.wait()
        steps = self.checkpointer.steps()
        kept = f"the checkpoint of step {steps[-1]} is kept" if steps else "nothing was saved yet"
        raise UserError(
            f"step {index + 1}: {numbers}; a number that is not finite stops the run, and {kept}; "
            "lower --optimizer.learning_rate or look at the data"
        )

    def _failed_alone(self) -> bool:
        """Whether other processes are still in the evaluation, and will not come to save."""
        try:
            self.group.gather("failed evaluation", "", seconds=FAILED_SECONDS)
        except JaxRuntimeError:
            return True
        return False

    def _save(self, state: TrainState, step: int) -> None:
        self.events.begin(SAVE)
        self.events.memory(**peak_bytes(self.setup.mesh))
        self.metrics.catch_up()
        self.events.catch_up()
        layout = self.setup.pipeline.layout
        self.checkpointer.save(step, state, meta=self.meta, like=self.shapes, layout=layout)

    def _evaluate(self, state: TrainState, index: int) -> str:
        self.events.begin(EVALUATE)
        losses = self.evaluate(state.params)
        loss, by_source = losses.all.mean, losses.by_source
        named = {f"held_out_loss/{name}": value for name, value in by_source.items()}
        self.metrics.write(
            index, held_out_loss=loss, bigram_loss=self.bigram, **named, **self.drawn(index + 1)
        )
        each = "".join(f"; {name} {value:.4f}" for name, value in by_source.items())
        return (
            f"step {index + 1}: held-out loss {loss:.4f} nats per token, "
            f"bigram model {self.bigram:.4f}{each}"
        )
