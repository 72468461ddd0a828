"""What a function does with tokens, seen from its values, where its program cannot be read."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

MAX_PARAMS = 1 << 25
"""A function with more parameters is not run."""

CHOSEN = 1
"""The token, or the sequence, that is changed, or takes the place of all others."""


def differs(function: Callable, shapes: Any, *, dim: int) -> bool | None:
    """Whether results at one element of `dim` change with another, or with its index.

    One compiled program runs four times in float32: as it is; with one element changed, which must
    leave the others bit for bit; with all elements shifted in a circle, which must shift the
    results, up to rounding; and with equal elements, whose results must be equal, even where an
    expert takes a limited number of tokens.

    Args:
      function: `(weights, positions, inputs, cotangents)`; its results are `[B, T, ...]`.
      shapes: of its arguments.
      dim: 0 for sequences, 1 for tokens.

    Returns:
      `None` where results are not numbers, which shows nothing.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jax import ShapeDtypeStruct
      >>> at, x = ShapeDtypeStruct((4,), jnp.int32), ShapeDtypeStruct((2, 4, 3), jnp.float32)
      >>> def sort(weights, at, x, dx):
      ...     return jnp.sort(x, axis=1)
      >>> differs(sort, ({}, at, x, x), dim=1), differs(sort, ({}, at, x, x), dim=0)
      (True, False)
    """
    weights, positions, *values = _draw(shapes)
    compiled = jax.jit(function)

    def run(change: Callable[[np.ndarray, int], np.ndarray]) -> list[np.ndarray]:
        place = dim - (2 - positions.ndim)
        at = change(positions, place) if place >= 0 else positions
        changed = jax.tree.map(lambda value: change(value, dim), values)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(compiled(weights, at, *changed))]

    size = jax.tree.leaves(values)[0].shape[dim]
    others = [index for index in range(size) if index != CHOSEN]
    plain, changed, shifted, alike = map(run, (lambda value, _: value, _change, _shift, _repeat))
    if any(np.isnan(leaf).any() for leaf in plain):
        return None
    return any(
        not np.array_equal(a.take(others, dim), b.take(others, dim), equal_nan=True)
        or not _near(_shift(a, dim), c)
        or not _near(_repeat(a, dim), d)
        for a, b, c, d in zip(plain, changed, shifted, alike, strict=True)
    )


def _draw(shapes: Any) -> Any:
    """Floats around 0; integers count along the last dim, as positions do."""
    rng = np.random.default_rng(0)

    def draw(shape: jax.ShapeDtypeStruct) -> np.ndarray:
        if jnp.issubdtype(shape.dtype, jnp.integer):
            return np.broadcast_to(np.arange(shape.shape[-1], dtype=shape.dtype), shape.shape)
        return 0.5 * rng.standard_normal(shape.shape, np.float32)

    return jax.tree.map(draw, shapes)


def _change(value: np.ndarray, dim: int) -> np.ndarray:
    """Other values at one element."""
    changed = value.copy()
    at = (slice(None),) * dim + (CHOSEN,)
    changed[at] = 5 - 2 * value[at] if value.dtype.kind == "f" else value[at] + 2
    return changed


def _shift(value: np.ndarray, dim: int) -> np.ndarray:
    return np.roll(value, 1, dim)


def _repeat(value: np.ndarray, dim: int) -> np.ndarray:
    """One element in place of every other."""
    return np.repeat(value.take([CHOSEN], dim), value.shape[dim], dim)


def _near(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to the rounding of a sum in another order."""
    tolerance = 100 * float(jnp.finfo(a.dtype).eps)
    a, b = (value.astype(np.float64) for value in (a, b))
    finite = np.isfinite(a) & np.isfinite(b)
    return bool(
        np.array_equal(a[~finite], b[~finite], equal_nan=True)
        and np.max(np.abs(a - b)[finite], initial=0)
        <= tolerance * np.max(np.abs(a[finite]), initial=0)
    )
