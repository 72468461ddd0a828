"""AdamW with linear warm-up, cosine decay, a global-norm clip, and decay of matrices only.

The update runs outside the `shard_map` on global arrays, so the global norm is that of the whole
model, not of one stage.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import jax
import optax

from seq1f1b_jax.config import Config, OptimizerConfig
from seq1f1b_jax.pipeline.params.layout import is_layer_path
from seq1f1b_jax.pipeline.stage import Params, Tree


def learning_rate_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Linear to the peak in `warmup_steps`, then a cosine that reaches its floor at the last step.

    Of `n` steps, which count from 0, step `k < warmup_steps` has `(k + 1) / (warmup_steps + 1)` of
    the peak, step `warmup_steps` the peak, and steps `n - 1` and later the floor. The rise takes at
    most half of the `n - 1` intervals between steps, so that there is a decay; a single step
    has the peak.

    Args:
      config: `decay_steps` is `n`, where it is set.
      num_steps: of the run; `n` where it is not.

    Example:
      >>> from seq1f1b_jax.config import OptimizerConfig
      >>> rate = learning_rate_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=3), 12)
      >>> [round(float(rate(step)), 2) for step in (0, 1, 2, 3, 7, 11, 12)]
      [0.25, 0.5, 0.75, 1.0, 0.55, 0.1, 0.1]
    """
    last = (config.decay_steps or num_steps) - 1
    warmup = min(config.warmup_steps, last // 2)
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / (warmup + 1),
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(last, 1),
        end_value=config.learning_rate * config.min_learning_rate_ratio,
    )


def describe_change(before: Mapping[str, Any], config: Config, step: int) -> str | None:
    """How the learning rate of a continued run deviates from its course, and what keeps it there.

    Args:
      before: the run's configuration up to here, as a tree.
      config: as it is now.
      step: the first one that runs now, counted from 0.

    Returns:
      A line for the user; None where the step has the rate that it would have had.

    Example:
      >>> from dataclasses import asdict
      >>> from seq1f1b_jax.config import Config, OptimizerConfig, TrainConfig
      >>> optimizer = OptimizerConfig(learning_rate=1.0, warmup_steps=0)
      >>> first, longer = (Config(optimizer=optimizer, train=TrainConfig(n)) for n in (400, 600))
      >>> describe_change(asdict(first), longer, 400)[:63]
      'note: from step 401 on the learning rate is 0.3236 and not 0.1,'
      >>> describe_change(asdict(first), first, 100)
    """
    if step >= config.train.num_steps:
        return None
    new = config.optimizer
    known = {field.name for field in fields(OptimizerConfig)}  # of a later version, perhaps not all
    old = OptimizerConfig(**{n: value for n, value in before["optimizer"].items() if n in known})
    length = new.decay_steps or config.train.num_steps
    earlier = old.decay_steps or before["train"]["num_steps"]
    rates = learning_rate_schedule(new, length), learning_rate_schedule(old, earlier)
    now, was = (float(rate(step)) for rate in rates)
    if abs(was - now) <= 1e-6 * max(was, now):
        return None
    text = f"note: from step {step + 1} on the learning rate is {now:.4g} and not {was:.4g}, "
    if replace(new, decay_steps=None) != replace(old, decay_steps=None):
        return text + "since settings of the optimizer have changed"
    return text + (
        f"since it falls over {length} steps now and not over {earlier}; "
        f"--optimizer.decay_steps {earlier} keeps the earlier course"
    )


def decay_mask(params: Params) -> Tree:
    """True for matrices and tables, false for norms, biases and other vectors.

    Leaves of `layers` carry two stacking dims in memory, `[num_ranks, max_layers, ...]`, and the
    tables one, `[num_ranks, rows, d]`.
    """

    def is_matrix(path, leaf) -> bool:
        stacked = 2 if is_layer_path(path) else 0
        return leaf.ndim - stacked >= 2

    return jax.tree.map_with_path(is_matrix, params)


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """The gradient transformation for parameters in the in-memory layout.

    Example:
      >>> from jax import numpy as jnp
      >>> from seq1f1b_jax.config import OptimizerConfig
      >>> optimizer = make_optimizer(OptimizerConfig(learning_rate=3e-4), 1000)
      >>> state = optimizer.init({"weight": jnp.ones((2, 3)), "bias": jnp.ones(3)})
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate_schedule(config, num_steps),
            b1=config.b1, b2=config.b2, eps=config.eps,
            weight_decay=config.weight_decay, mask=decay_mask,
        ),
    )
