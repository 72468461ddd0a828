"""The optimizer of a configuration: a global-norm clip, a direction, decay of matrices, a rate.

    grads -> clip -> direction by `optimizer.name` -> + weight_decay * matrices -> * -learning rate

The update runs outside the `shard_map` of the pipeline on global arrays, so the global norm is that
of the whole model, not of one stage. Padding, of stages with fewer layers and of tables, has zero
gradients, and stays zero with every optimizer.
"""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import optax

from seq1f1b_jax.config import OptimizerConfig
from seq1f1b_jax.config.optimizer import resolve_optimizer
from seq1f1b_jax.pipeline import PipelineStep
from seq1f1b_jax.training.optimizer.adafactor import scale_by_adafactor
from seq1f1b_jax.training.optimizer.leaves import decay_mask
from seq1f1b_jax.training.optimizer.muon import scale_by_muon
from seq1f1b_jax.training.optimizer.rates import learning_rate_schedule

Direction = Callable[[Mapping[str, Any], PipelineStep | None], optax.GradientTransformation]


def make_optimizer(
    config: OptimizerConfig, num_steps: int, *, pipeline: PipelineStep | None = None
) -> optax.GradientTransformation:
    """The gradient transformation for parameters in the in-memory layout.

    `init` also takes parameters, or their shapes, in the layout that is free of topology, and gives
    its state in that layout: what a checkpoint is described by.

    Args:
      config: settings.
      num_steps: of the run.
      pipeline: where the parameters are; `None`: free of topology, on one device. AdamW and Lion
        do not need it where a vocabulary table trains.

    Example:
      >>> from jax import numpy as jnp
      >>> from seq1f1b_jax.config import OptimizerConfig
      >>> optimizer = make_optimizer(OptimizerConfig(learning_rate=3e-4), 1000)
      >>> state = optimizer.init({"weight": jnp.ones((2, 3)), "bias": jnp.ones(3)})
    """
    settings = resolve_optimizer(config)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.chain(
            DIRECTIONS[config.name](settings, pipeline),
            optax.add_decayed_weights(config.weight_decay, partial(decay_mask, pipeline=pipeline)),
            optax.scale_by_learning_rate(learning_rate_schedule(config, num_steps)),
        ),
    )


def _adamw(settings: Mapping[str, Any], pipeline: PipelineStep | None):
    return optax.scale_by_adam(settings["b1"], settings["b2"], settings["eps"])


def _lion(settings: Mapping[str, Any], pipeline: PipelineStep | None):
    return optax.scale_by_lion(settings["b1"], settings["b2"])


def _muon(settings: Mapping[str, Any], pipeline: PipelineStep | None):
    names = ("momentum", "nesterov", "ns_steps", "consistent_rms")
    own = {name: settings[name] for name in names}
    return scale_by_muon(_adamw(settings, pipeline), **own, pipeline=pipeline)


def _adafactor(settings: Mapping[str, Any], pipeline: PipelineStep | None):
    names = ("decay_rate", "clip_rms", "parameter_scale", "min_dim_size_to_factor")
    own = {name: settings[name] for name in names}
    return scale_by_adafactor(**own, pipeline=pipeline)


DIRECTIONS: Mapping[str, Direction] = MappingProxyType(
    {"adamw": _adamw, "adafactor": _adafactor, "lion": _lion, "muon": _muon}
)
"""Of every optimizer the step before decay and learning rate."""
