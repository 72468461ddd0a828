"""Rotary positions: queries and keys turned by an angle proportional to their position.

Pair `i` of a head (dimensions `i` and `i + D/2`) turns by `theta**(-2i/D)` radians per token, so a
query-key product depends on the distance of the two tokens only.

A model may be stretched to longer sequences than it was trained on. A frequency makes
`original_max_positions * frequency / (2 pi)` turns over the trained length. Fast ones have seen all
their angles and may stay; slow ones would reach unseen angles and are stretched, that is divided by
`factor`. The types differ in where they draw the line:

    linear   all are divided
    ntk      a larger base, theta * factor**(D / (D - 2)): the fastest stays, the slowest is divided
    yarn     a ramp over the dimensions, from beta_fast turns down to beta_slow turns
    llama3   a ramp over the turns, from high_freq_factor down to low_freq_factor
    longrope a factor for each, found by a search: one list up to the trained length, one beyond it
    dynamic  as ntk, with factor * length / original_max_positions - (factor - 1) for the factor
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from seq1f1b_jax.config import ROPE_TYPES, RopeConfig

UNSTRETCHED = RopeConfig()
Tables = tuple[Float[Array, "*B T half"], Float[Array, "*B T half"]]


def rotary_tables(
    positions: Int[Array, "*B T"], *, head_dim: int, theta: float, rope: RopeConfig = UNSTRETCHED
) -> Tables:
    """Cosine and sine of every position's angles.

    A float32 product `position * frequency` is off by 0.03 radians at a million tokens. Full turns
    do not matter, so the angle is an unsigned integer in units of 2**-32 turns: its overflow drops
    exactly the full turns; with a frequency of 1/4 turn per token, position 5 is
    `5 * 2**30 mod 2**32 = 2**30`, a quarter turn. What remains is the rounding of the frequency, at
    most 2**-33 turns per token (0.0008 radians at a million): products still depend on distances
    only.

    Args:
      positions: token positions from 0 on, `[T]`, or `[B, T]` where sequences differ.
      head_dim: size `D` of a head, even.
      theta: base of the frequencies.
      rope: how they are stretched; both tables include YaRN's scale of queries and keys.

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
    """Turn every pair of dimensions by its position's angle; in `x`'s dtype, float32 inside.

    A rotation is linear, and its transpose is the inverse rotation times the same scale: the
    backward saves the tables only.
    """
    cos, sin = cos[..., :, None, :], sin[..., :, None, :]
    low, high = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)
    return turned.astype(x.dtype)


rotate.defvjp(
    lambda x, cos, sin: (rotate(x, cos, sin), (cos, sin)),
    lambda tables, dy: (rotate(dy, tables[0], -tables[1]), None, None),
)


def inverse_frequencies(
    head_dim: int, *, theta: float, rope: RopeConfig
) -> tuple[np.ndarray, float]:
    """Radians per token of every pair of dimensions, and the scale of queries and keys.

    Args:
      head_dim: size `D` of a head, even.
      theta: base of the frequencies.
      rope: how they are stretched.

    Returns:
      Float64 `[D/2]`, and a number that is 1 except for YaRN and LongRoPE.

    Example:
      >>> from seq1f1b_jax.config import RopeConfig
      >>> halved = RopeConfig("linear", factor=2.0)
      >>> radians, scale = inverse_frequencies(4, theta=100.0, rope=halved)
      >>> radians.round(2).tolist(), scale
      ([0.5, 0.05], 1.0)

    Source: linear: Chen et al., arXiv 2306.15595, equation 4; ntk and yarn: Peng et al., YaRN,
    arXiv 2309.00071, sections 3.1 to 3.4; llama3: the code published with Llama 3.1; longrope: Ding
    et al., arXiv 2402.13753, section 3.
    """
    theta *= base_factor(rope) ** (head_dim / (head_dim - 2)) if head_dim > 2 else 1
    plain = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if rope.type in ("none", "ntk", "dynamic"):
        return plain, 1.0
    if rope.type == "longrope":
        factors = rope.long_factors if _is_longer(rope) else rope.short_factors
        return plain / np.asarray(factors), attention_factor(rope)
    stretched = plain / rope.factor
    if rope.type == "linear":
        return stretched, 1.0
    if rope.type == "yarn":
        kept = _yarn_ramp(head_dim, theta, rope)
    else:
        kept = _llama3_ramp(plain, rope)
    return kept * plain + (1 - kept) * stretched, attention_factor(rope)


def base_factor(rope: RopeConfig) -> float:
    """How many times longer a sequence is for which the base is raised; 1: it is not.

    Example:
      >>> from seq1f1b_jax.config import RopeConfig
      >>> base_factor(RopeConfig("dynamic", factor=2.0, original_max_positions=100, length=150))
      2.0
    """
    if rope.type == "ntk":
        return rope.factor
    if rope.type != "dynamic" or not _is_longer(rope):
        return 1.0
    assert rope.length and rope.original_max_positions  # it is longer
    return rope.factor * rope.length / rope.original_max_positions - (rope.factor - 1)


def _is_longer(rope: RopeConfig) -> bool:
    return (rope.length or 0) > (rope.original_max_positions or 0)


def attention_factor(rope: RopeConfig) -> float:
    """The scale of queries and of keys that keeps attention as sharp as it was."""
    if rope.type not in ("yarn", "longrope"):
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.type == "longrope":
        assert rope.original_max_positions  # checked
        return math.sqrt(1 + math.log(rope.factor) / math.log(rope.original_max_positions))
    return 0.1 * math.log(rope.factor) + 1


def _yarn_ramp(head_dim: int, theta: float, rope: RopeConfig) -> np.ndarray:
    """1 for pairs that stay, 0 for pairs that are stretched by the full factor."""
    # Pair i makes n turns where length * theta**(-2i/D) = 2 pi n: solve for i.
    def pair(turns):
        return head_dim * math.log(rope.original_max_positions / (2 * math.pi * turns)) / (
            2 * math.log(theta)
        )

    low = max(math.floor(pair(rope.beta_fast)), 0)
    high = min(math.ceil(pair(rope.beta_slow)), head_dim - 1)
    # A ramp of no width is a step; the published form widens it by a thousandth.
    width = max(high - low, 1e-3)
    return 1 - np.clip((np.arange(head_dim // 2) - low) / width, 0, 1)


def _llama3_ramp(plain: np.ndarray, rope: RopeConfig) -> np.ndarray:
    turns = rope.original_max_positions * plain / (2 * math.pi)
    width = rope.high_freq_factor - rope.low_freq_factor
    return np.clip((turns - rope.low_freq_factor) / width, 0, 1)


def check_rope(rope: RopeConfig, *, head_dim: int, theta: float) -> None:
    """Raise a ValueError for settings that contradict each other."""
    if rope.type not in ROPE_TYPES:
        raise ValueError(f"unknown rope.type {rope.type!r}; use one of {', '.join(ROPE_TYPES)}")
    if not 1 <= rope.factor < math.inf:
        raise ValueError(
            f"rope.factor={rope.factor} is below 1 or infinite; use 1 or more"
        )
    if rope.type == "none" and rope.factor != 1:
        raise ValueError(
            f"rope.factor={rope.factor} has no effect with rope.type='none'; set rope.type to "
            f"{', '.join(ROPE_TYPES[1:])}"
        )
    if not theta >= 1:
        raise ValueError(
            f"rope_theta={theta} is below 1, so later pairs of dimensions would turn faster, not "
            "slower; 10000 is usual"
        )
    if rope.type in ("ntk", "dynamic") and head_dim <= 2:
        raise ValueError(
            f"rope.type={rope.type!r} raises the base to a power of D / (D - 2) and head_dim="
            f"{head_dim}; use rope.type='linear'"
        )
    if rope.type in ("yarn", "llama3", "longrope", "dynamic"):
        _check_length(rope)
    if rope.type in ("yarn", "llama3"):
        _check_ramp(rope)
    for name in ("short_factors", "long_factors"):
        _check_factors(name, rope, head_dim)
    if rope.attention_factor is not None and not 0 < rope.attention_factor < math.inf:
        raise ValueError(
            f"rope.attention_factor={rope.attention_factor} scales queries and keys; use a number "
            "above 0, or None"
        )
    if rope.type == "yarn" and theta <= 1:
        raise ValueError(f"rope.type='yarn' needs rope_theta above 1, not {theta}; 10000 is usual")


def _check_factors(name: str, rope: RopeConfig, head_dim: int) -> None:
    factors = getattr(rope, name)
    if rope.type != "longrope":
        if factors is not None:
            raise ValueError(f"rope.{name} are of rope.type='longrope', not {rope.type!r}")
        return
    if factors is None or len(factors) != head_dim // 2 or not min(factors) > 0:
        raise ValueError(
            f"rope.{name}={factors}: rope.type='longrope' needs {head_dim // 2} numbers above 0, "
            f"one for each pair of the {head_dim} dims that are turned"
        )


def _check_length(rope: RopeConfig) -> None:
    if rope.original_max_positions is None or rope.original_max_positions <= 1:
        raise ValueError(
            f"rope.original_max_positions={rope.original_max_positions} with rope.type="
            f"{rope.type!r}; set it to the length that the model was trained on"
        )


def _check_ramp(rope: RopeConfig) -> None:
    names = {"yarn": ("beta_slow", "beta_fast"), "llama3": ("low_freq_factor", "high_freq_factor")}
    low, high = names[rope.type]
    if not 0 < getattr(rope, low) < getattr(rope, high):
        raise ValueError(
            f"rope.{low}={getattr(rope, low)} and rope.{high}={getattr(rope, high)}; the first is "
            "above 0 and below the second"
        )
