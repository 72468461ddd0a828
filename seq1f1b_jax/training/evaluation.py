"""Held-out loss through the pipeline, beside the loss of a bigram model."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from seq1f1b_jax.pipeline.stage import Params
from seq1f1b_jax.training.data import Batch, SequenceData
from seq1f1b_jax.training.setup import Setup


def held_out_batches(setup: Setup, data: SequenceData, num_batches: int) -> tuple[Batch, ...]:
    """The first held-out sequences, in the shape of training steps."""
    return data.held_out(
        num_batches, num_microbatches=setup.config.schedule.num_microbatches,
        microbatch_size=setup.config.data.microbatch_size,
    )


def make_evaluation(setup: Setup) -> Callable[[Params, Sequence[Batch]], float]:
    """`(params, batches) -> mean loss in nats per token`, compiled once."""
    loss = jax.jit(setup.pipeline.loss)

    def evaluate(params: Params, batches: Sequence[Batch]) -> float:
        return float(np.mean([float(loss(params, *batch)) for batch in batches]))

    return evaluate
