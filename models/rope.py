"""Rotary frequencies of a model that is stretched to longer sequences than it was trained on.

A frequency makes `original_max_positions * frequency / (2 pi)` turns over the trained length. Fast
ones have seen all their angles and may stay; slow ones would reach angles never seen and are
stretched, that is divided by `factor`. The types differ in where they draw the line:

    linear   all are divided
    ntk      a larger base, theta * factor**(D / (D - 2)): the fastest stays, the slowest is divided
    yarn     a ramp over the dimensions, from beta_fast turns down to beta_slow turns
    llama3   a ramp over the turns, from high_freq_factor down to low_freq_factor
"""

import math

import numpy as np

from seq1f1b_jax.config import RopeConfig

UNSTRETCHED = RopeConfig()


def inverse_frequencies(
    head_dim: int, *, theta: float, rope: RopeConfig
) -> tuple[np.ndarray, float]:
    """Radians per token of every pair of dimensions, and the scale of queries and keys.

    Args:
      head_dim: size `D` of a head, even.
      theta: base of the frequencies.
      rope: how they are stretched.

    Returns:
      Float64 `[D/2]`, and a number that is 1 but for YaRN.

    Example:
      >>> from seq1f1b_jax.config import RopeConfig
      >>> halved = RopeConfig("linear", factor=2.0)
      >>> radians, scale = inverse_frequencies(4, theta=100.0, rope=halved)
      >>> radians.round(2).tolist(), scale
      ([0.5, 0.05], 1.0)

    Source: linear: Chen et al., arXiv 2306.15595, equation 4; ntk and yarn: Peng et al., YaRN,
    arXiv 2309.00071, sections 3.1 to 3.4; llama3: the code published with Llama 3.1.
    """
    if rope.type == "ntk":
        theta *= rope.factor ** (head_dim / (head_dim - 2))
    plain = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    if rope.type in ("none", "ntk"):
        return plain, 1.0
    stretched = plain / rope.factor
    if rope.type == "linear":
        return stretched, 1.0
    if rope.type == "yarn":
        kept = _yarn_ramp(head_dim, theta, rope)
    else:
        kept = _llama3_ramp(plain, rope)
    return kept * plain + (1 - kept) * stretched, attention_factor(rope)


def attention_factor(rope: RopeConfig) -> float:
    """The scale of queries and of keys that keeps YaRN's attention as sharp as it was."""
    if rope.type != "yarn":
        return 1.0
    if rope.attention_factor is not None:
        return rope.attention_factor
    return 0.1 * math.log(rope.factor) + 1


def _yarn_ramp(head_dim: int, theta: float, rope: RopeConfig) -> np.ndarray:
    """1 for pairs that stay, 0 for those that are stretched whole."""
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
    """Raise a ValueError where the settings of a stretch do not fit together."""
    types = ("none", "linear", "ntk", "yarn", "llama3")
    if rope.type not in types:
        raise ValueError(f"unknown rope.type {rope.type!r}; use one of {', '.join(types)}")
    if not 1 <= rope.factor < math.inf:
        raise ValueError(
            f"rope.factor={rope.factor} is below 1 or infinite, and sequences grow; use 1 or more"
        )
    if rope.type == "none" and rope.factor != 1:
        raise ValueError(
            f"rope.factor={rope.factor} has no effect with rope.type='none'; set rope.type to "
            f"{', '.join(types[1:])}"
        )
    if not theta >= 1:
        raise ValueError(
            f"rope_theta={theta} is below 1, so later pairs of dimensions would turn faster, not "
            "slower; 10000 is usual"
        )
    if rope.type == "ntk" and head_dim <= 2:
        raise ValueError(
            f"rope.type='ntk' raises the base to a power of D / (D - 2) and head_dim={head_dim}; "
            "use rope.type='linear'"
        )
    if rope.type in ("yarn", "llama3"):
        _check_ramp(rope)
    if rope.attention_factor is not None and not 0 < rope.attention_factor < math.inf:
        raise ValueError(
            f"rope.attention_factor={rope.attention_factor} scales queries and keys; use a number "
            "above 0, or None"
        )
    if rope.type == "yarn" and theta <= 1:
        raise ValueError(f"rope.type='yarn' needs rope_theta above 1, not {theta}; 10000 is usual")


def _check_ramp(rope: RopeConfig) -> None:
    if rope.original_max_positions is None or rope.original_max_positions <= 0:
        raise ValueError(
            f"rope.original_max_positions={rope.original_max_positions} with rope.type="
            f"{rope.type!r}; set it to the length that the model was trained on"
        )
    names = {"yarn": ("beta_slow", "beta_fast"), "llama3": ("low_freq_factor", "high_freq_factor")}
    low, high = names[rope.type]
    if not 0 < getattr(rope, low) < getattr(rope, high):
        raise ValueError(
            f"rope.{low}={getattr(rope, low)} and rope.{high}={getattr(rope, high)}; the first is "
            "above 0 and below the second"
        )
