"""From plain numbers to a model: sizes filled in, checked, and handed to the family."""

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from seq1f1b_jax.config import RopeConfig
from seq1f1b_jax.models.decoder import Decoder
from seq1f1b_jax.models.gpt import Gpt
from seq1f1b_jax.models.llama import Llama
from seq1f1b_jax.models.presets import nearest, preset_fields
from seq1f1b_jax.models.rope import check_rope

FAMILIES: Mapping[str, type[Decoder]] = MappingProxyType({"gpt": Gpt, "llama": Llama})


def build_stage(
    family: str,
    *,
    preset: str | None = None,
    num_layers: int | None = None,
    model_dim: int | None = None,
    num_heads: int | None = None,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    mlp_dim: int | None = None,
    vocab_size: int | None = None,
    max_positions: int | None = None,
    tied: bool | None = None,
    norm_eps: float | None = None,
    rope_theta: float | None = None,
    rope: RopeConfig | Mapping[str, Any] | None = None,
    window: int | None = None,
    qkv_bias: bool | None = None,
    output_bias: bool | None = None,
    source: str | None = None,
    dropout: float = 0.0,
) -> Decoder:
    """A model of a family, as the `Stage` that the pipeline executes.

    A field that is `None` is taken from the preset, else it has the default named below, else it is
    missing, which is an error.

    Args:
      family: `gpt` or `llama`.
      preset: a name in `PRESETS[family]`.
      num_layers: layers of the whole model.
      model_dim: width of the residual stream.
      num_heads: query heads.
      num_kv_heads: key/value heads, a divisor of `num_heads`; default `num_heads`.
      head_dim: width of one head; default `model_dim / num_heads`.
      mlp_dim: hidden width of the MLP; default `4 * model_dim` (gpt), or `8/3 * model_dim` rounded
        up to a multiple of 64 (llama, whose MLP has three matrices).
      vocab_size: rows of the vocabulary tables.
      max_positions: rows of the table of learned positions (gpt; llama needs none).
      tied: whether the head is the embedding; default `False`.
      norm_eps: added to a norm's variance; default 1e-5.
      rope_theta: base of the rotary frequencies (llama; gpt has none); default 10000.
      rope: how these are stretched for longer sequences (llama), or the fields of that; default
        not at all.
      window: keys a query looks back at, itself included (llama); default all before it.
      qkv_bias: whether query, key and value projections have biases; default `False` (llama), and
        always so for gpt.
      output_bias: whether attention's output projection has one; likewise.
      source: checkpoint that the fields were taken from; the shape does not depend on it.
      dropout: 0.

    Raises:
      ValueError: an unknown name, a missing size, sizes that do not fit together, or dropout.

    Example:
      >>> build_stage("llama", preset="tiny", num_layers=3).num_layers
      3
    """
    given = {name: value for name, value in locals().items() if value is not None}
    for name in ("family", "preset", "dropout", "source"):
        given.pop(name, None)
    _check_dropout(dropout)
    model = nearest(FAMILIES, family, what="family")
    sizes = {**(preset_fields(family, preset) if preset is not None else {}), **given}
    sizes = _with_defaults(family, sizes)
    _check(family, sizes)
    check_rope(sizes["rope"], head_dim=sizes["head_dim"], theta=sizes["rope_theta"])
    _check_gpt(family, sizes)
    names = [field.name for field in fields(model) if field.name in sizes]
    return model(**{name: sizes[name] for name in names})


def _with_defaults(family: str, sizes: dict[str, Any]) -> dict[str, Any]:
    required = ["num_layers", "model_dim", "num_heads", "vocab_size"]
    required += ["max_positions"] if family == "gpt" else []
    missing = [name for name in required if name not in sizes]
    if missing:
        raise ValueError(
            f"{', '.join(missing)} not given for family {family!r}; set them or a preset"
        )
    for name in required:
        _check_positive(name, sizes[name])
    model_dim, num_heads = sizes["model_dim"], sizes["num_heads"]
    if "head_dim" not in sizes and model_dim % num_heads:
        raise ValueError(
            f"model_dim={model_dim} is not a multiple of num_heads={num_heads}; "
            f"use model_dim={-(-model_dim // num_heads) * num_heads} or set head_dim"
        )
    gated_dim = -(-8 * model_dim // (3 * 64)) * 64
    return {
        "num_kv_heads": num_heads,
        "head_dim": model_dim // num_heads,
        "mlp_dim": 4 * model_dim if family == "gpt" else gated_dim,
        "tied": False,
        "norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "window": None,
        "qkv_bias": family == "gpt",
        "output_bias": family == "gpt",
        **sizes,
        "rope": _rope(sizes.get("rope")),
    }


def _rope(rope: RopeConfig | Mapping[str, Any] | None) -> RopeConfig:
    return rope if isinstance(rope, RopeConfig) else RopeConfig(**(rope or {}))


def _check(family: str, sizes: dict[str, Any]) -> None:
    for name in ("num_kv_heads", "head_dim", "mlp_dim", "norm_eps", "rope_theta"):
        _check_positive(name, sizes[name])
    if sizes["window"] is not None:
        _check_positive("window", sizes["window"])
    num_heads, num_kv_heads = sizes["num_heads"], sizes["num_kv_heads"]
    if num_heads % num_kv_heads:
        divisors = [n for n in range(1, num_heads + 1) if num_heads % n == 0]
        raise ValueError(
            f"num_heads={num_heads} is not a multiple of num_kv_heads={num_kv_heads}; each "
            f"key/value head serves equally many query heads: use num_kv_heads from {divisors}"
        )
    if family == "llama" and sizes["head_dim"] % 2:
        raise ValueError(
            f"head_dim={sizes['head_dim']} is odd; rotary positions turn pairs of dimensions: "
            f"use head_dim={sizes['head_dim'] + 1}, or another num_heads"
        )


def _check_gpt(family: str, sizes: dict[str, Any]) -> None:
    if family != "gpt":
        return
    fixed = {"window": None, "qkv_bias": True, "output_bias": True}
    given = {**{name: sizes[name] for name in fixed}, "rope.type": sizes["rope"].type}
    for name, only in {**fixed, "rope.type": "none"}.items():
        if given[name] != only:
            raise ValueError(
                f"{name}={given[name]} does not exist in family 'gpt', which has learned positions "
                f"and biases everywhere: leave {name} out, or use family='llama'"
            )


def _check_positive(name: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{name}={value} is not positive; use a number above 0")


def _check_dropout(dropout: float) -> None:
    if dropout != 0:
        raise ValueError(
            f"dropout={dropout} is not supported: the backward of a chunk is rebuilt from stored "
            "residuals, and dropout masks are not among them; set dropout=0"
        )
