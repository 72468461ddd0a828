"""AdamW with linear warm-up, cosine decay, a global-norm clip, and decay of matrices only.

The update runs outside the `shard_map` on global arrays, so the global norm is that of the whole
model, not of one stage.
"""

import jax
import optax

from seq1f1b_jax.config import OptimizerConfig
from seq1f1b_jax.pipeline.layout import is_layer_path
from seq1f1b_jax.pipeline.stage import Params, Tree


def learning_rate_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Linear to the peak in `warmup_steps`, then a cosine to its floor at `num_steps`.

    In a run of fewer than `2 * warmup_steps` steps the rise takes half of them.
    """
    warmup = min(config.warmup_steps, num_steps // 2)
    return optax.warmup_cosine_decay_schedule(
        init_value=config.learning_rate / (warmup + 1),
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(num_steps, warmup + 1),
        end_value=config.learning_rate * config.min_learning_rate_ratio,
    )


def decay_mask(params: Params) -> Tree:
    """True for matrices and tables, false for norms, biases and other vectors.

    Leaves of `layers` carry two stacking dims in memory, `[num_stages, max_layers, ...]`, and the
    tables one, `[num_stages, rows, d]`.
    """

    def is_matrix(path, leaf) -> bool:
        stacked = 2 if is_layer_path(path) else 0
        return leaf.ndim - stacked >= 2

    return jax.tree.map_with_path(is_matrix, params)


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """The gradient transformation for parameters in the in-memory layout.

    Example:
      >>> optimizer = make_optimizer(OptimizerConfig(learning_rate=3e-4), 1000)
      >>> state = optimizer.init(params)
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate_schedule(config, num_steps),
            b1=config.b1, b2=config.b2, eps=config.eps,
            weight_decay=config.weight_decay, mask=decay_mask,
        ),
    )
