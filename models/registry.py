"""From plain numbers to a model: sizes filled in and checked."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, get_args

from seq1f1b_jax.config import (
    DEFAULT_POSITIONS,
    LayerKind,
    LoraConfig,
    ModelConfig,
    RopeConfig,
    all_sizes,
    resolve_model,
)
from seq1f1b_jax.config.experts import expert_problems
from seq1f1b_jax.config.lora import lora_problems
from seq1f1b_jax.config.presets import nearest, preset_fields
from seq1f1b_jax.models.decoder import Decoder
from seq1f1b_jax.models.gpt import Gpt
from seq1f1b_jax.models.llama import Llama
from seq1f1b_jax.models.lora import NO_ADAPTERS
from seq1f1b_jax.models.rope import check_rope

FAMILIES: Mapping[str, type[Decoder]] = MappingProxyType({"gpt": Gpt, "llama": Llama})
POSITIVE = (
    "window", "window_rope_theta", "rotary_dim", "attention_scale", "attention_softcap",
    "logit_softcap", "embedding_scale", "residual_scale", "logit_scale",
)
LARGEST = 1e30
LLAMA_ONLY = (
    *POSITIVE, "layer_pattern", "qk_norm", "norm_placement", "norm_offset", "activation",
)
"""Fields that family `gpt` has none of."""
FAMILY_POSITIONS = MappingProxyType({"gpt": ("learned", "rotary"), "llama": ("rotary",)})


def build_stage(
    family: str, *, preset: str | None = None, lora: LoraConfig = NO_ADAPTERS, **fields: Any
) -> Decoder:
    """A model of a family, as the `Stage` that the pipeline executes.

    A field that is not given, or `None`, is the preset's, else its default, else missing: an error.

    Args:
      family: `gpt` or `llama`.
      preset: a name in `PRESETS[family]`.
      lora: adapters beside the projections of the layers.
      **fields: fields of `config.ModelConfig`, which describes them. The default of `num_kv_heads`
        is `num_heads`, of `head_dim` `model_dim / num_heads`, of `mlp_dim` `4 * model_dim` (gpt) or
        `8/3 * model_dim` rounded up to a multiple of 64 (llama, whose MLP has three matrices);
        those of `tied`, `norm_eps` and `rope_theta` are in `config.MODEL_DEFAULTS`, those of
        `positions` in `config.DEFAULT_POSITIONS`. `rope` may be a mapping of its fields. `stage`
        and `source` change nothing, nor does `max_positions` with rotary positions.

    Raises:
      ValueError: an unknown name, a missing size, sizes or adapters that do not fit, or dropout.

    Example:
      >>> build_stage("llama", preset="tiny", num_layers=3).num_layers
      3
    """
    kind = nearest(FAMILIES, family, what="family")
    preset_sizes = {} if preset is None else preset_fields(family, preset)
    rope = fields.pop("rope", None) or {}
    rope = dict(vars(rope)) if isinstance(rope, RopeConfig) else dict(rope)
    for name in ("short_factors", "long_factors"):  # a recipe has lists
        rope[name] = None if rope.get(name) is None else tuple(rope[name])
    rope = RopeConfig(**rope)
    model = ModelConfig(family=family, preset=preset, rope=rope, **fields)
    _check_dropout(model.dropout)
    for problem in lora_problems(lora, None, stage=None, family=family):
        raise ValueError(problem)
    _check_required(model, preset_sizes)
    sizes = all_sizes(resolve_model(model, preset_sizes))
    _check(family, sizes)
    for problem in expert_problems({**sizes, "family": family}, lora):
        raise ValueError(problem)
    _check_family(family, sizes)
    check_layers(sizes)
    turned = sizes.get("rotary_dim", sizes["head_dim"])
    check_rope(rope, head_dim=turned, theta=sizes["rope_theta"])
    if "layer_pattern" in sizes:
        sizes["layer_pattern"] = tuple(sizes["layer_pattern"])
    if sizes["positions"] == "rotary":
        sizes["max_positions"] = None  # there is no table, and no limit
    names = [field.name for field in dataclasses.fields(kind) if field.name in sizes]
    return kind(**{name: sizes[name] for name in names}, lora=lora)


def _check_required(model: ModelConfig, preset_sizes: Mapping[str, Any]) -> None:
    required = ["num_layers", "model_dim", "num_heads", "vocab_size"]
    given = {name: value for name, value in vars(model).items() if value is not None}
    sizes = {"positions": DEFAULT_POSITIONS[model.family], **preset_sizes, **given}
    required += ["max_positions"] if sizes["positions"] == "learned" else []
    missing = [name for name in required if name not in sizes]
    if missing:
        cure = ", or positions='rotary'" if missing == ["max_positions"] else ""
        raise ValueError(
            f"{', '.join(missing)} not given for family {model.family!r}; set them or a preset"
            + cure
        )
    for name in required:
        _check_positive(name, sizes[name])


def _check(family: str, sizes: dict[str, Any]) -> None:
    for name in ("num_kv_heads", "head_dim", "mlp_dim", "norm_eps", "rope_theta"):
        _check_positive(name, sizes[name])
    for name in POSITIVE:
        if name in sizes:
            _check_positive(name, sizes[name])
    num_heads, num_kv_heads = sizes["num_heads"], sizes["num_kv_heads"]
    if num_heads % num_kv_heads:
        divisors = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
        raise ValueError(
            f"num_heads={num_heads} is not a multiple of num_kv_heads={num_kv_heads}; each "
            f"key/value head serves equally many query heads: use num_kv_heads from {divisors}"
        )
    if sizes["positions"] == "rotary" and sizes["head_dim"] % 2:
        raise ValueError(
            f"head_dim={sizes['head_dim']} is odd; rotary positions turn pairs of dimensions: "
            f"use head_dim={sizes['head_dim'] + 1}, or another num_heads"
        )


def check_layers(sizes: Mapping[str, Any]) -> None:
    """Refuse kinds of layers that do not exist, or that lack what they need."""
    pattern = sizes.get("layer_pattern")
    if pattern is not None:
        unknown = [kind for kind in pattern if kind not in get_args(LayerKind)]
        if unknown or not pattern:
            raise ValueError(
                f"layer_pattern={pattern!r}: kinds of layers are {', '.join(get_args(LayerKind))}; "
                "give one or more of them"
            )
    has_window_layers = "window" in (pattern or ())
    if has_window_layers != ("window" in sizes) and pattern is not None:
        raise ValueError(
            f"window={sizes.get('window')} and layer_pattern={list(pattern)}; a pattern with "
            "window layers needs the window's size, and one without them has none"
        )
    if "window_rope_theta" in sizes and not has_window_layers:
        raise ValueError(
            f"window_rope_theta={sizes['window_rope_theta']} is for window layers of a "
            "layer_pattern, and there are none; leave it out, or set rope_theta"
        )
    rotary = sizes.get("rotary_dim")
    if rotary is not None and (rotary % 2 or rotary > sizes["head_dim"]):
        raise ValueError(
            f"rotary_dim={rotary} of head_dim={sizes['head_dim']}: positions turn pairs of dims; "
            "use an even number, at most head_dim"
        )


def _check_family(family: str, sizes: dict[str, Any]) -> None:
    """Refuse what a family does not have, and would ignore."""
    positions, rope = sizes["positions"], sizes["rope"].type
    if positions not in FAMILY_POSITIONS[family]:
        raise ValueError(
            f"positions={positions!r} does not exist in family {family!r}, whose positions are "
            f"{' or '.join(FAMILY_POSITIONS[family])}: leave positions out"
            + ", or use family='gpt'" * (positions in FAMILY_POSITIONS["gpt"])
        )
    if family != "gpt":
        return
    fixed = dict.fromkeys(("qkv_bias", "output_bias", "mlp_bias"), True)
    fixed |= dict.fromkeys(LLAMA_ONLY)
    for name, only in fixed.items():
        if sizes.get(name, only) != only:
            raise ValueError(
                f"{name}={sizes[name]} does not exist in family 'gpt', which has biases everywhere "
                f"and no window: leave {name} out, or use family='llama'"
            )
    if positions == "learned" and rope != "none":
        raise ValueError(
            f"rope.type={rope} does not exist with positions='learned', which nothing stretches: "
            "leave rope.type out, or use positions='rotary'"
        )


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name}={value} is not positive; use a number above 0")
    if value > LARGEST:
        raise ValueError(f"{name}={value} is above {LARGEST:g}; float32 could not compute with it")


def _check_dropout(dropout: float) -> None:
    if dropout != 0:
        raise ValueError(
            f"dropout={dropout} is not supported: the backward of a chunk recomputes from stored "
            "residuals, and dropout masks are not among them; set dropout=0"
        )
