"""Our fields as a config.json that transformers 4 and 5 read alike."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from seq1f1b_jax.config import RopeConfig, UserError
from seq1f1b_jax.models.decoder import Decoder
from seq1f1b_jax.models.hf.families import FAMILIES, Family
from seq1f1b_jax.models.hf.settings import CheckedValues
from seq1f1b_jax.models.llama import Llama
from seq1f1b_jax.models.registry import build_stage

ALWAYS = ("qkv_bias", "output_bias", "window")


def hf_config(
    stage: Decoder,
    *,
    dtype: str,
    context_length: int | None,
    special_tokens: Mapping[str, int | list[int]],
    architecture: str | None = None,
) -> dict[str, Any]:
    """The content of config.json.

    Args:
      stage: the model.
      dtype: of its tensors.
      context_length: tokens of the longest sequence; None: follows from the architecture or the
        stretch of the rotary frequencies.
      special_tokens: ids by name (`bos`, `eos`, `pad`).
      architecture: see `family_of`.

    Raises:
      UserError: transformers has no architecture that computes what our model computes.
    """
    family = family_of(stage, architecture)
    settings = family.write(stage, context_length)
    assert settings is not None, family
    # null and not absent: transformers' defaults are ids of another tokenizer.
    ids = {f"{kind}_token_id": special_tokens.get(kind) for kind in ("bos", "eos", "pad")}
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "torch_dtype": dtype,
        "dtype": dtype,
        "vocab_size": stage.vocab_size,
        "tie_word_embeddings": stage.tied,
        **ids,
        **settings,
    }


def family_of(stage: Decoder, architecture: str | None = None) -> Family:
    """The first architecture whose settings, written and read back, are the model.

    Args:
      stage: the model.
      architecture: the one to try first: that of the checkpoint that the model was made from.

    Raises:
      UserError: there is none.
    """
    model = _spelled_out(stage)
    for family in sorted(FAMILIES, key=lambda family: family.architecture != architecture):
        settings = family.write(stage, 1 << 10) if isinstance(stage, family.model) else None
        if settings is None:
            continue
        settings |= {"vocab_size": stage.vocab_size, "tie_word_embeddings": stage.tied}
        try:
            found, _ = family.read(CheckedValues(settings, family.architecture))
        except UserError:  # what it cannot say it would refuse
            continue
        if _spelled_out(build_stage(**found)) == model:
            return family
    given = {name: getattr(stage, name, None) for name in ALWAYS} | _special(stage)
    words = ", ".join(f"{name}={value}" for name, value in given.items())
    raise UserError(
        f"{words} are together no architecture of transformers that is written here: Llama has "
        "both biases or none and no window, Mistral a window and no biases, Qwen2 a window and "
        "qkv_bias; train a model of one of "
        f"{', '.join(family.architecture for family in FAMILIES)}"
    )


def _spelled_out(stage: Decoder) -> Decoder:
    """The model with one spelling for what can be spelled in several ways."""
    if not isinstance(stage, Llama):
        return stage
    if stage.rope.type == "ntk":
        theta = stage.rope_theta * stage.rope.factor ** (stage.head_dim / (stage.head_dim - 2))
        stage = replace(stage, rope=RopeConfig(), rope_theta=theta)
    # the length of a run's sequences is not the checkpoint's
    stage = replace(stage, layer_pattern=stage.layer_kinds, rope=replace(stage.rope, length=None))
    if set(stage.layer_pattern) == {"full"}:
        stage = replace(stage, layer_pattern=(), window=None)
    ones = ("embedding_scale", "residual_scale", "logit_scale")
    plain = {name: None for name in ones if getattr(stage, name) == 1}
    if stage.attention_scale == stage.head_dim**-0.5:
        plain["attention_scale"] = None
    if stage.window_rope_theta == stage.rope_theta and stage.rope.type == "none":
        plain["window_rope_theta"] = None
    return replace(stage, **plain)


def _special(stage: Decoder) -> dict[str, Any]:
    """Options that are not at their defaults, of those that not every model has."""
    sizes = {"rope", "rope_theta", "tensor", "norm_eps", "tied", *ALWAYS}
    return {
        field.name: getattr(stage, field.name) for field in fields(stage)
        if field.name not in sizes and getattr(stage, field.name) != field.default
        and not field.name.startswith(("num_", "vocab"))
        and not field.name.endswith("_dim")
    }
