"""What a step trains on, from which `StageCost.model_flops` counts its FLOPs."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.loss import num_targets
from seq1f1b_jax.schedule import mean_over_layers


class Work(NamedTuple):
    """What a step trains on, without padding and tokens that have no target.

    Attributes:
      num_tokens: tokens with a target.
      num_pairs: pairs of such a query and a key that it sees; rounded in float32.
    """

    num_tokens: Int[Array, ""]
    num_pairs: Float[Array, ""]


def count_work(
    targets: Int[Array, "M B T"], starts: Int[Array, "M B T"] | None, *,
    windows: tuple[int | None, ...] = (None,),
) -> Work:
    """The work of a batch.

    Args:
      targets: negative where there is none.
      starts: position of the first token of every token's document; `None`: one document.
      windows: sliding-window size of each layer, or one for all; `None`: all keys before the
        query. The pairs are those of a layer, on average.

    Example:
      >>> import jax.numpy as jnp
      >>> targets = jnp.array([[[5, 6, -1, 7]]])
      >>> [int(number) for number in count_work(targets, None)]
      [3, 7]
    """
    visible = jnp.arange(1, targets.shape[-1] + 1)
    visible = jnp.broadcast_to(visible, targets.shape) if starts is None else visible - starts
    visible = mean_over_layers(
        windows, lambda window: visible if window is None else jnp.minimum(visible, window)
    )
    # row by row first: a long running sum would round every further row away
    rows = jnp.sum(jnp.where(targets >= 0, visible, 0), axis=-1, dtype=jnp.float32)
    return Work(num_targets(targets), jnp.sum(rows))
