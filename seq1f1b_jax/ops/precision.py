"""In which dtype sums are kept."""

import jax.numpy as jnp
from jaxtyping import DTypeLike


def accumulation_dtype(dtype: DTypeLike) -> jnp.dtype:
    """At least float32; float64 stays float64, so that float64 tests are float64 throughout.

    Example:
      >>> accumulation_dtype("bfloat16")
      dtype('float32')
    """
    return jnp.promote_types(jnp.float32, dtype)
