"""Rotary settings of a config.json, in the spelling of transformers 4 and of 5, both ways.

4 has `"rope_theta": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 2.0}` (or `"type"`), and
5 has `"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}`.
"""

import math
from collections.abc import Mapping
from typing import Any

from seq1f1b_jax.config import RopeConfig, UserError
from seq1f1b_jax.models.hf.settings import CheckedValues, short

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
    "dynamic": ("factor", "original_max_position_embeddings"),
    "longrope": (
        "factor", "short_factor", "long_factor", "original_max_position_embeddings",
        "attention_factor",
    ),
}
_EVERYWHERE = ("rope_type", "type", "rope_theta", "partial_rotary_factor")


def read_rope(
    settings: CheckedValues, *, theta: float = 10_000.0, partial: bool = False
) -> tuple[float, RopeConfig]:
    """Base of the frequencies, and how they are stretched.

    Args:
      settings: of the config.json.
      theta: the base where the setting is absent.
      partial: whether a part of the dims of a head may be turned; see `partial_factor`.

    Raises:
      UserError: a type or an option that is not supported, a missing value, or two spellings that
        disagree.
    """
    spelled = [name for name in ("rope_parameters", "rope_scaling") if settings.get(name)]
    if not partial:
        _refuse_partial(settings)
    found = [_read(settings, name, theta) for name in spelled or ["rope_scaling"]]
    if found[0] != found[-1]:
        both = " and ".join(f"{name}={short(dict(settings.mapping(name)))}" for name in spelled)
        raise UserError(
            f"{settings.where}: {both} stretch differently; remove the one that is wrong"
        )
    return found[0]


def read_rope_by_kind(
    settings: CheckedValues, *, theta: float, local: float | None
) -> tuple[float, RopeConfig, float]:
    """The same where window layers have frequencies of their own, which nothing stretches.

    Args:
      settings: of the config.json.
      theta: the base where the setting is absent.
      local: that of window layers; `None`: the other one.

    Returns:
      Base and stretch of the other layers, and the base of window layers.

    Raises:
      UserError: as `read_rope`, or window layers are stretched.
    """
    parameters = settings.mapping("rope_parameters")
    by_kind = {name: parameters[name] for name in ("full_attention", "sliding_attention")
               if isinstance(parameters.get(name), Mapping)}
    values = dict(settings.values)
    window = values.pop("rope_local_base_freq", None)
    if by_kind:
        values["rope_parameters"] = by_kind.get("full_attention", {})
    base, rope = read_rope(CheckedValues(values, settings.where), theta=theta)
    inner = by_kind.get("sliding_attention", {})
    where = f"{settings.where}, rope_parameters of sliding_attention"
    if inner.get("rope_type", "default") != "default":
        raise UserError(
            f"{where}: rope_type={inner['rope_type']!r}; window layers are never stretched: use "
            "another checkpoint"
        )
    given = [x for x in (window, inner.get("rope_theta")) if x is not None]
    if len(set(given)) > 1:
        raise UserError(
            f"{where}: rope_theta={given[1]}, and rope_local_base_freq={given[0]} is set outside "
            "of it; correct the one that is wrong"
        )
    found = CheckedValues({"rope_theta": given[0] if given else None}, where)
    return base, rope, found.number("rope_theta", base if local is None else local)


def partial_factor(settings: CheckedValues) -> float:
    """The part of the dims of a head that positions turn."""
    outer = settings.number("partial_rotary_factor", 1.0)
    for name in ("rope_parameters", "rope_scaling"):
        inner = CheckedValues(settings.mapping(name), f"{settings.where}, {name}")
        part = inner.number("partial_rotary_factor", outer)
        if settings.get("partial_rotary_factor") is not None and part != outer:
            raise UserError(
                f"{inner.where}: partial_rotary_factor={part:g}, and {outer:g} is set outside of "
                "it; correct the one that is wrong"
            )
        if part != 1:
            return part
    return outer


def _refuse_partial(settings: CheckedValues) -> None:
    part = partial_factor(settings)
    if part != 1:
        raise UserError(
            f"{settings.where}: partial_rotary_factor={part}; rotary positions turn all dims of a "
            "head in this architecture: use a checkpoint without it"
        )


def _read(settings: CheckedValues, spelled: str, theta: float) -> tuple[float, RopeConfig]:
    rope = CheckedValues(settings.mapping(spelled), f"{settings.where}, {spelled}")
    _refuse(rope)
    theta, kind = _theta(rope, settings, theta), _kind(rope)
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
    if kind == "dynamic":
        length = settings.count("max_position_embeddings")
        return theta, RopeConfig(
            "dynamic", factor=rope.number("factor"), original_max_positions=length
        )
    if kind == "longrope":
        return theta, _longrope(rope, settings)
    return theta, _yarn(rope, settings)


def _theta(rope: CheckedValues, settings: CheckedValues, default: float) -> float:
    outer = settings.number("rope_theta", default)
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
    kind = {"su": "longrope"}.get(str(rope.get("rope_type")), rope.get("rope_type"))  # older name
    if kind is None and options:
        raise UserError(
            f"{rope.where}: {', '.join(options)} without a rope_type; say which of "
            f"{', '.join(OPTIONS)} is meant"
        )
    kind = "default" if kind is None else kind
    if not isinstance(kind, str) or kind not in OPTIONS:
        raise UserError(
            f"{rope.where}: rope type {kind!r} is not supported ({', '.join(OPTIONS)} are): "
            "use a checkpoint without it"
        )
    strange = [f"{name}={short(rope.get(name))}" for name in options if name not in OPTIONS[kind]]
    if strange:
        raise UserError(
            f"{rope.where}: {', '.join(strange)} has no meaning for rope type {kind!r} (which has "
            f"{', '.join(OPTIONS[kind]) or 'no options'}); remove it, or give the type it is of"
        )
    return kind


def _refuse(rope: CheckedValues) -> None:
    nested = [name for name in rope if isinstance(rope.get(name), Mapping)]
    if nested:
        raise UserError(
            f"{rope.where}: different settings for {', '.join(nested)}; rotary positions must be "
            "the same in all layers: use another checkpoint"
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


def _longrope(rope: CheckedValues, settings: CheckedValues) -> RopeConfig:
    length = _trained_length(rope, settings)
    given = rope.get("factor") is not None
    factor = rope.number("factor") if given else settings.count("max_position_embeddings") / length
    scale = rope.get("attention_factor")
    return RopeConfig(
        "longrope", factor=max(factor, 1.0), original_max_positions=length,
        attention_factor=None if scale is None else rope.number("attention_factor"),
        short_factors=tuple(rope.numbers("short_factor")),
        long_factors=tuple(rope.numbers("long_factor")),
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


def write_rope_by_kind(
    theta: float, rope: RopeConfig, *, local: float | None, head_dim: int
) -> dict[str, Any]:
    """The same where window layers have a base of their own."""
    found = write_rope(theta, rope, head_dim=head_dim)
    local = theta if local is None else local
    kinds = {
        "full_attention": found["rope_parameters"],
        "sliding_attention": {"rope_theta": local, "rope_type": "default"},
    }
    return found | {"rope_parameters": kinds, "rope_local_base_freq": local}


def _options(rope: RopeConfig) -> dict[str, Any]:
    if rope.type == "dynamic":
        return {}
    trained = {"original_max_position_embeddings": rope.original_max_positions}
    if rope.type == "llama3":
        return trained | {
            "low_freq_factor": rope.low_freq_factor, "high_freq_factor": rope.high_freq_factor,
        }
    if rope.type == "longrope":
        scale = rope.attention_factor
        return trained | {
            "short_factor": list(rope.short_factors or ()),
            "long_factor": list(rope.long_factors or ()),
        } | ({} if scale is None else {"attention_factor": scale})
    if rope.type == "yarn":
        given = rope.attention_factor
        scale = {} if given is None else {"attention_factor": given}
        return trained | {"beta_fast": rope.beta_fast, "beta_slow": rope.beta_slow} | scale
    return {}
