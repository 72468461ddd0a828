"""Rotary positions: queries and keys turned by an angle proportional to their position.

Pair `i` of a head (dimensions `i` and `i + D/2`) turns by `theta**(-2i/D)` radians per token, so a
query-key product depends on the distance of the two tokens only.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from seq1f1b_jax.config import RopeConfig
from seq1f1b_jax.models.rope import UNSTRETCHED, inverse_frequencies

Tables = tuple[Float[Array, "*B T half"], Float[Array, "*B T half"]]


def rotary_tables(
    positions: Int[Array, "*B T"], *, head_dim: int, theta: float, rope: RopeConfig = UNSTRETCHED
) -> Tables:
    """Cosine and sine of every position's angles.

    A float32 product `position * frequency` is off by 0.03 radians at a million tokens. Whole turns
    do not matter, so the angle is counted in 2**-32 turns in an unsigned integer, whose overflow is
    exactly the dropping of whole turns: with a frequency of 1/4 turn per token, position 5 is
    `5 * 2**30 mod 2**32 = 2**30`, a quarter turn. What remains is the rounding of the frequency,
    at most 2**-33 turns per token (0.0008 radians at a million): angles still depend on distances
    only.

    Args:
      positions: token positions, `[T]`, or `[B, T]` where sequences differ, not negative.
      head_dim: size `D` of a head, even.
      theta: base of the frequencies.
      rope: how they are stretched; YaRN's scale of queries and keys is a factor of both tables.

    Returns:
      `(cos, sin)`, each `[*positions.shape, D/2]`, float32; float64 (from float64 angles) when JAX
      runs with x64.

    Source: Su et al., RoFormer, arXiv 2104.09864, section 3.2.2.
    """
    radians_per_token, scale = inverse_frequencies(head_dim, theta=theta, rope=rope)
    turns_per_token = radians_per_token / (2 * math.pi)
    dtype = jnp.result_type(float)
    if dtype == jnp.float64:
        angle = positions[..., None].astype(dtype) * (2 * math.pi * turns_per_token)
    else:
        step = np.round(turns_per_token * 2**32).astype(np.uint32)
        parts = positions[..., None].astype(jnp.uint32) * step
        angle = lax.bitcast_convert_type(parts, jnp.int32).astype(dtype) * (2 * math.pi / 2**32)
    if scale == 1:
        return jnp.cos(angle), jnp.sin(angle)
    return scale * jnp.cos(angle), scale * jnp.sin(angle)


@jax.custom_vjp
def rotate(
    x: Float[Array, "B T H D"], cos: Float[Array, "*B T half"], sin: Float[Array, "*B T half"]
) -> Float[Array, "B T H D"]:
    """Turn every pair of dimensions by its position's angle; computed wide, in `x`'s dtype.

    A rotation is linear and its transpose is the rotation back, also when both tables carry one
    factor: its backward keeps the tables only.
    """
    cos, sin = cos[..., :, None, :], sin[..., :, None, :]
    low, high = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
    return turned.astype(x.dtype)


rotate.defvjp(
    lambda x, cos, sin: (rotate(x, cos, sin), (cos, sin)),
    lambda tables, dy: (rotate(dy, tables[0], -tables[1]), None, None),
)
