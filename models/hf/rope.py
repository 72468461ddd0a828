"""Rotary settings of a config.json, in the spelling of transformers 4 and of 5, both ways.

4 has `"rope_theta": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 2.0}` (or `"type"`), and
5 has `"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}`.
"""

import math
from collections.abc import Mapping
from typing import Any

from seq1f1b_jax.config import RopeConfig, UserError
from seq1f1b_jax.models.hf.settings import CheckedValues, short

CURES = {
    "dynamic": "its frequencies change with the sequence's length; remove the setting from the "
    "config and stretch by a fixed factor instead: --model.rope.type ntk --model.rope.factor F",
    "longrope": "its factors were searched for one model; use a checkpoint without it",
}


# The options of each type; any other would be silently ignored.
OPTIONS = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    ),
    "yarn": (
        "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor",
        "mscale", "mscale_all_dim", "truncate",
        "finetuned",  # how the weights were made; changes no frequency
    ),
}
_EVERYWHERE = ("rope_type", "type", "rope_theta", "partial_rotary_factor")


def read_rope(settings: CheckedValues) -> tuple[float, RopeConfig]:
    """Base of the frequencies, and how they are stretched.

    Raises:
      UserError: a type or an option that is not supported, a missing value, or two spellings that
        disagree.
    """
    spelled = [name for name in ("rope_parameters", "rope_scaling") if settings.get(name)]
    found = [_read(settings, name) for name in spelled or ["rope_scaling"]]
    if found[0] != found[-1]:
        both = " and ".join(f"{name}={short(dict(settings.mapping(name)))}" for name in spelled)
        raise UserError(
            f"{settings.where}: {both} stretch differently; remove the one that is wrong"
        )
    return found[0]


def _read(settings: CheckedValues, spelled: str) -> tuple[float, RopeConfig]:
    rope = CheckedValues(settings.mapping(spelled), f"{settings.where}, {spelled}")
    _refuse(rope, settings)
    theta, kind = _theta(rope, settings), _kind(rope)
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
    return theta, _yarn(rope, settings)


def _theta(rope: CheckedValues, settings: CheckedValues) -> float:
    outer = settings.number("rope_theta", 10_000.0)
    inner = rope.number("rope_theta", outer)
    if settings.get("rope_theta") is not None and inner != outer:
        raise UserError(
            f"{rope.where}: rope_theta={inner:g}, and rope_theta={outer:g} is set outside of it; "
            "correct the one that is wrong"
        )
    return inner


def _kind(rope: CheckedValues) -> str:
    """The type, if all other options belong to it."""
    rope = rope.renamed({"type": "rope_type"})
    options = [name for name in rope if name not in _EVERYWHERE and rope.get(name) is not None]
    kind = rope.get("rope_type")
    if kind is None and options:
        raise UserError(
            f"{rope.where}: {', '.join(options)} without a rope_type; say which of "
            f"{', '.join(OPTIONS)} is meant"
        )
    kind = "default" if kind is None else kind
    if not isinstance(kind, str) or kind not in OPTIONS:
        raise UserError(
            f"{rope.where}: rope type {kind!r} is not supported ({', '.join(OPTIONS)} are): "
            f"{CURES.get(str(kind), 'use a checkpoint without it')}"
        )
    strange = [f"{name}={short(rope.get(name))}" for name in options if name not in OPTIONS[kind]]
    if strange:
        raise UserError(
            f"{rope.where}: {', '.join(strange)} has no meaning for rope type {kind!r} (which has "
            f"{', '.join(OPTIONS[kind]) or 'no options'}); remove it, or give the type it is of"
        )
    return kind


def _refuse(rope: CheckedValues, settings: CheckedValues) -> None:
    nested = [name for name in rope if isinstance(rope.get(name), Mapping)]
    if nested:
        raise UserError(
            f"{rope.where}: different settings for {', '.join(nested)}; rotary positions must be "
            "the same in all layers: use another checkpoint"
        )
    part = rope.number("partial_rotary_factor", settings.number("partial_rotary_factor", 1.0))
    if part != 1:
        raise UserError(
            f"{settings.where}: partial_rotary_factor={part}; rotary positions turn all dims of a "
            "head: use a checkpoint without it"
        )


def _yarn(rope: CheckedValues, settings: CheckedValues) -> RopeConfig:
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


def _trained_length(rope: CheckedValues, settings: CheckedValues) -> int:
    name = "original_max_position_embeddings"
    given = [found for found in (rope, settings) if found.get(name) is not None]
    lengths = [found.count(name) for found in given] or [settings.count("max_position_embeddings")]
    if lengths[0] != lengths[-1]:
        raise UserError(
            f"{rope.where}: {name}={lengths[0]}, and {name}={lengths[-1]} is set outside of it; "
            "correct the one that is wrong"
        )
    return lengths[0]


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
