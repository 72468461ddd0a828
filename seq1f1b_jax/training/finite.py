"""Weights that are no numbers, named before a loss that is none is blamed on something else."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from seq1f1b_jax.config import UserError
from seq1f1b_jax.training.checkpoint_record import named_leaves
from seq1f1b_jax.training.evaluation import whole


def check_finite(tree: PyTree, told: str) -> None:
    """Refuse arrays that hold NaN or infinity; all processes that hold a part call this.

    Args:
      tree: arrays on devices, or NumPy's.
      told: whose they are, for the message.

    Raises:
      UserError: the first such array.

    Example:
      >>> import jax.numpy as jnp
      >>> check_finite({"head": jnp.array([1.0, jnp.inf])}, "the model")
      Traceback (most recent call last):
      seq1f1b_jax.config.UserError: the model: head holds numbers that are not finite; take another
    """
    leaves = {
        name: leaf for name, leaf in named_leaves(tree).items()
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    finite = whole(_all_finite(list(leaves.values())))
    bad = [name for name, good in zip(leaves, finite, strict=True) if not good]
    if bad:
        more = f", and so do {len(bad) - 1} others" * (len(bad) > 1)
        raise UserError(f"{told}: {bad[0]} holds numbers that are not finite{more}; take another")


@jax.jit
def _all_finite(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])
