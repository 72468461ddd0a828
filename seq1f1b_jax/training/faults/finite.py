"""Weights that are not finite, named before the loss that they make is blamed on something else."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from seq1f1b_jax.config import UserError
from seq1f1b_jax.pipeline.params.rows import Reader, Rows, opened
from seq1f1b_jax.training.checkpoint.record import named_leaves
from seq1f1b_jax.training.evaluation.held_out import whole

BAD = "{whose}: {name} holds numbers that are not finite{more}; take another"


def check_finite(tree: PyTree, whose: str) -> None:
    """Refuse arrays that hold NaN or infinity; all processes that hold a part call this.

    Args:
      tree: arrays on devices, or NumPy's.
      whose: what the message calls them.

    Raises:
      UserError: the first such array.

    Example:
      >>> import jax.numpy as jnp
      >>> from seq1f1b_jax.training.faults.finite import check_finite
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
        raise UserError(BAD.format(whose=whose, name=bad[0], more=more))


def finite_rows(tree: PyTree, whose: str) -> PyTree:
    """The same leaves, `Rows` or arrays, which refuse what they hold when it is read.

    Args:
      tree: topology-free.
      whose: what the message calls them.

    Example:
      >>> import numpy as np
      >>> from seq1f1b_jax.training.faults.finite import finite_rows
      >>> np.asarray(finite_rows({"head": np.array([[np.nan]])}, "the model")["head"])
      Traceback (most recent call last):
      seq1f1b_jax.config.UserError: the model: head holds numbers that are not finite; take another
    """

    def rows(name: str, leaf: Rows | np.ndarray) -> Rows | np.ndarray:
        if not leaf.shape or not np.issubdtype(leaf.dtype, np.floating):
            return leaf

        def open() -> Reader:
            read = opened(leaf)

            def checked(start: int, stop: int) -> np.ndarray:
                found = read(start, stop)
                if not np.isfinite(found).all():
                    raise UserError(BAD.format(whose=whose, name=name, more=""))
                return found

            return checked

        return Rows(leaf.shape, leaf.dtype, open, together=getattr(leaf, "together", 1))

    leaves = [rows(name, leaf) for name, leaf in named_leaves(tree).items()]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


@jax.jit
def _all_finite(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves])
