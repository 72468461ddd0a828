"""Model FLOPs of a step: what the mathematics needs, whatever the program recomputes or pads."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.loss import num_targets
from seq1f1b_jax.pipeline.stage import Stage


class Work(NamedTuple):
    """What a step trains on; padding, and tokens after which nothing follows, are none of it.

    Attributes:
      num_tokens: tokens with a target.
      num_pairs: keys that they see, all together; rounded in float32.
    """

    num_tokens: Int[Array, ""]
    num_pairs: Float[Array, ""]


def count_work(
    targets: Int[Array, "M B T"], starts: Int[Array, "M B T"] | None, *, window: int | None
) -> Work:
    """Of a batch.

    Args:
      targets: negative where there is none.
      starts: position of the first token of every token's document; `None`: one document.
      window: keys that a query looks back at, itself included; `None`: all.

    Example:
      >>> import jax.numpy as jnp
      >>> targets = jnp.array([[[5, 6, -1, 7]]])
      >>> [int(number) for number in count_work(targets, None, window=None)]
      [3, 7]
    """
    visible = jnp.arange(1, targets.shape[-1] + 1)
    visible = jnp.broadcast_to(visible, targets.shape) if starts is None else visible - starts
    if window is not None:
        visible = jnp.minimum(visible, window)
    # row by row first: a long running sum would round every further row away
    rows = jnp.sum(jnp.where(targets >= 0, visible, 0), axis=-1, dtype=jnp.float32)
    return Work(num_targets(targets), jnp.sum(rows))


def step_flops(
    stage: Stage, *, num_layer_params: int, num_tokens: float, num_pairs: float
) -> float:
    """FLOPs of forward and backward over a step.

    A weight takes part in one multiply-add per token forward and two backward: 6 FLOPs. A query
    and a key that it sees are `2 * 2 * head_dim` FLOPs per query head forward and twice that
    backward. The head is counted, the embedding lookup is not.

    Args:
      stage: the model.
      num_layer_params: parameters of all layers together.
      num_tokens: tokens that the step trains on.
      num_pairs: pairs of a query and a key that it sees; `T (T + 1) / 2` in a sequence of `T`.

    Example:
      >>> from seq1f1b_jax.models import build_stage
      >>> stage = build_stage("llama", preset="tiny")
      >>> sizes = {"num_layer_params": 1000, "num_tokens": 64, "num_pairs": 64 * 65 / 2}
      >>> flops = step_flops(stage, **sizes)
      >>> flops / 0.5  # model FLOPs per second of a step that took half a second
      5535744.0
    """
    matmul_params = num_layer_params + stage.vocab_size * stage.model_dim
    attention = 12 * num_pairs * stage.num_heads * stage.head_dim * stage.num_layers
    return 6.0 * matmul_params * num_tokens + attention
