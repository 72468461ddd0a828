"""Rotary settings of a config.json, in the spelling of transformers 4 and of 5, both ways.

4 has `"rope_theta": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 2.0}` (or `"type"`), and
5 has `"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}`.
"""

import math
from collections.abc import Mapping
from typing import Any

from models.hf.settings import Settings
from seq1f1b_jax.config import RopeConfig, UserError

CURES = {
    "dynamic": "its frequencies change with the sequence's length; remove the setting from the "
    "config and stretch by a fixed factor instead: --model.rope.type ntk --model.rope.factor F",
    "longrope": "its factors were searched for one model; use a checkpoint without it",
}


def read_rope(settings: Settings) -> tuple[float, RopeConfig]:
    """Base of the frequencies, and how they are stretched.

    Raises:
      UserError: a type or an option that is not supported, or a value that is missing.
    """
    spelled = "rope_parameters" if settings.get("rope_parameters") else "rope_scaling"
    rope = Settings(settings.mapping(spelled), f"{settings.where}, {spelled}")
    _refuse(rope, settings)
    theta = rope.number("rope_theta", settings.number("rope_theta", 10_000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, RopeConfig()
    if kind == "linear":
        return theta, RopeConfig("linear", factor=rope.number("factor"))
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor")
        numbers = {name: rope.number(name) for name in names}
        return theta, RopeConfig(
            "llama3", **numbers, original_max_positions=_trained_length(rope, settings)
        )
    if kind == "yarn":
        return theta, _yarn(rope, settings)
    raise UserError(
        f"{rope.where}: rope type {kind!r} is not supported (default, linear, llama3 and yarn "
        f"are): {CURES.get(str(kind), 'use a checkpoint without it')}"
    )


def _refuse(rope: Settings, settings: Settings) -> None:
    nested = [name for name in rope if isinstance(rope.get(name), Mapping)]
    if nested:
        raise UserError(
            f"{rope.where}: different settings for {', '.join(nested)}; rotary positions must be "
            "the same in all layers: use another checkpoint"
        )
    part = rope.number("partial_rotary_factor", settings.number("partial_rotary_factor", 1.0))
    if part != 1:
        raise UserError(
            f"{settings.where}: partial_rotary_factor={part}; heads are turned whole or not at "
            "all: use a checkpoint without it"
        )


def _yarn(rope: Settings, settings: Settings) -> RopeConfig:
    if rope.get("truncate", True) is not True:
        raise UserError(
            f"{rope.where}: truncate={rope.get('truncate')}; yarn's ramp begins and ends at whole "
            "pairs of dims here: use a checkpoint with truncate=true"
        )
    length = _trained_length(rope, settings)
    given = rope.get("factor") is not None
    factor = rope.number("factor") if given else settings.count("max_position_embeddings") / length
    scale = rope.get("attention_factor")
    if scale is not None:
        scale = rope.number("attention_factor")
    elif rope.get("mscale") and rope.get("mscale_all_dim"):
        growth = 0.1 * math.log(max(factor, 1))
        over, under = rope.number("mscale"), rope.number("mscale_all_dim")
        scale = (growth * over + 1) / (growth * under + 1)
    return RopeConfig(
        "yarn", factor=factor, original_max_positions=length, attention_factor=scale,
        beta_fast=rope.number("beta_fast", 32.0), beta_slow=rope.number("beta_slow", 1.0),
    )


def _trained_length(rope: Settings, settings: Settings) -> int:
    name = "original_max_position_embeddings"
    for place in (settings, rope):
        if place.get(name) is not None:
            return place.count(name)
    return settings.count("max_position_embeddings")


def write_rope(theta: float, rope: RopeConfig, *, head_dim: int) -> dict[str, Any]:
    """The entries of a config.json that both versions read; `ntk` becomes the base that it is."""
    if rope.type == "ntk":
        theta *= rope.factor ** (head_dim / (head_dim - 2))
    if rope.type in ("none", "ntk"):
        scaling = None
    else:
        scaling = {"rope_type": rope.type, "factor": rope.factor, **_options(rope)}
    parameters = {"rope_theta": theta, **(scaling or {"rope_type": "default"})}
    return {"rope_theta": theta, "rope_scaling": scaling, "rope_parameters": parameters}


def _options(rope: RopeConfig) -> dict[str, Any]:
    trained = {"original_max_position_embeddings": rope.original_max_positions}
    if rope.type == "llama3":
        return trained | {
            "low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor,
        }
    if rope.type == "yarn":
        given = rope.attention_factor
        scale = {} if given is None else {"attention_factor": given}
        return trained | {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow} | scale
    return {}
