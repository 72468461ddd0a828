"""One optimizer step: pipelined loss and gradients, then the update on global arrays."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from seq1f1b_jax.pipeline import PipelineStep
from seq1f1b_jax.pipeline.params.sharding import shardings
from seq1f1b_jax.pipeline.params.trained import merged
from seq1f1b_jax.pipeline.stage import Params, windows_of
from seq1f1b_jax.training.reports.work import Work, count_work


class TrainState(NamedTuple):
    """What a checkpoint holds: float32 parameters, optimizer state, number of finished steps.

    The optimizer's state is of the leaves that train (`pipeline.params.trained`).
    """

    params: Params
    optimizer: optax.OptState
    step: Int[Array, ""]


class StepMetrics(NamedTuple):
    """What the host reads of a step.

    Attributes:
      loss: nats per target, before the update.
      grad_norm: global gradient norm before the clip.
      update_norm: global norm of what was added to the parameters.
      learning_rate: of this update.
      work: what the step trained on, in all processes together.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    update_norm: Float[Array, ""]
    learning_rate: Float[Array, ""]
    work: Work


def init_state(
    pipeline: PipelineStep, optimizer: optax.GradientTransformation, params: Params
) -> TrainState:
    """The state of step 0 around parameters on the mesh, in the in-memory layout."""
    opt_state = pipeline.init_optimizer(optimizer, params)
    zero = np.zeros((), np.int32)
    whole = shardings(zero, pipeline.mesh, pipeline.layout)
    # not `device_put`: where each of several processes has one device, its array has no shards
    step = jax.make_array_from_callback(zero.shape, whole, lambda index: zero)
    return TrainState(params, opt_state, step)


def state_shardings(state: TrainState, pipeline: PipelineStep) -> TrainState:
    """Sharding of every leaf: parameters replicated over `data`, the optimizer's state sharded."""
    of = partial(shardings, mesh=pipeline.mesh, layout=pipeline.layout)
    return TrainState(of(state.params), of(state.optimizer, over_data=True), of(state.step))


def make_train_step(
    pipeline: PipelineStep,
    optimizer: optax.GradientTransformation,
    *,
    learning_rate: optax.Schedule | float = math.nan,
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """The jitted step `(state, tokens, targets, starts) -> (state, metrics)`; donates the state.

    tokens, targets, starts: int32 `[num_microbatches, sequences, seq_len]`; starts may be `None`,
    see `PipelineStep.loss_and_grads`. `learning_rate` is the optimizer's, which does
    not expose it; only the metrics use it.

    Example:
      >>> import jax
      >>> from jax import numpy as jnp
      >>> from seq1f1b_jax.models import build_stage
      >>> from seq1f1b_jax.config import OptimizerConfig
      >>> from seq1f1b_jax.pipeline import build_step, make_mesh
      >>> from seq1f1b_jax.schedule import make_plan
      >>> from seq1f1b_jax.training.optimizer import learning_rate_schedule, make_optimizer
      >>> plan = make_plan("seq1f1b", num_ranks=1, num_microbatches=2, num_chunks=2)
      >>> stage = build_stage("llama", preset="tiny")
      >>> pipeline = build_step(stage, plan, make_mesh(1), chunk_lengths=(8, 8))
      >>> config = OptimizerConfig(learning_rate=1e-3, warmup_steps=0)
      >>> optimizer, rate = make_optimizer(config, 10), learning_rate_schedule(config, 10)
      >>> state = init_state(pipeline, optimizer, pipeline.init(jax.random.key(0)))
      >>> train_step = make_train_step(pipeline, optimizer, learning_rate=rate)
      >>> tokens = jnp.ones((2, 1, 16), jnp.int32)
      >>> state, metrics = train_step(state, tokens, tokens)
      >>> int(state.step), float(metrics.learning_rate), int(metrics.work.num_tokens)
      (1, 0.0010000000474974513, 32)
    """

    def train_step(state: TrainState, tokens: Array, targets: Array, starts: Array | None = None):
        loss, grads = pipeline.loss_and_grads(state.params, tokens, targets, starts)
        own, frozen = pipeline.trained.split(state.params)
        updates, opt_state = optimizer.update(grads, state.optimizer, own)
        params = merged(optax.apply_updates(own, updates), frozen)
        new = TrainState(params, opt_state, state.step + 1)
        new = jax.lax.with_sharding_constraint(new, state_shardings(new, pipeline))
        norms = optax.tree.norm(grads), optax.tree.norm(updates)
        rate = learning_rate(state.step) if callable(learning_rate) else learning_rate
        work = count_work(targets, starts, windows=windows_of(pipeline.stage))
        return new, StepMetrics(loss, *norms, jnp.asarray(rate), work)

    return jax.jit(train_step, donate_argnums=0)
