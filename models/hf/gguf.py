"""The metadata of a GGUF file as fields of our models."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from seq1f1b_jax.config import RopeConfig, UserError
from seq1f1b_jax.formats.gguf import GgufFile
from seq1f1b_jax.models.hf.config import Description
from seq1f1b_jax.models.hf.families.llama_cpp import PERMUTED, STRAIGHT
from seq1f1b_jax.models.hf.rules import Rule
from seq1f1b_jax.models.hf.settings import CheckedValues
from seq1f1b_jax.models.rope import inverse_frequencies

ARCHITECTURES: Mapping[str, tuple[Rule, ...]] = MappingProxyType({
    "llama": PERMUTED, "qwen2": STRAIGHT, "qwen3": STRAIGHT,
})
"""Architecture -> its tensors."""
_FACTORS = "rope_freqs.weight"
LLAMA3 = RopeConfig(
    "llama3", original_max_positions=8192, low_freq_factor=1.0, high_freq_factor=4.0
)
"""Of every model with such factors, but for how many times longer."""


def read_metadata(file: GgufFile, *, where: str) -> Description:
    """Read a GGUF header; Mistral's files call themselves `llama`.

    Args:
      file: an open file.
      where: its path, named in messages.

    Raises:
      UserError: an architecture or a setting that our models do not have, with reason and cure.
    """
    kind = file.metadata.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise UserError(
            f"{where}: general.architecture={kind!r} is not supported in GGUF; use a file of "
            f"{' or '.join(ARCHITECTURES)}, or the checkpoint's safetensors"
        )
    _check_whole(file, where)
    prefix = f"{kind}."
    values = {k.removeprefix(prefix): v for k, v in file.metadata.items() if k.startswith(prefix)}
    settings = CheckedValues(values, f"{where}, {kind}")
    length = settings.count("context_length")
    return Description(f"{kind} (GGUF)", ARCHITECTURES[kind], _fields(settings, file), length,
                       _special_tokens(file))


def _check_whole(file: GgufFile, where: str) -> None:
    """Refuse a file that holds no model, or a part of one."""
    content = CheckedValues(file.metadata, where)
    content.refuse({
        "general.type": (("model",), "it is no model: give the file of the model itself"),
    })


def _fields(settings: CheckedValues, file: GgufFile) -> dict[str, Any]:
    num_heads, head_dim = settings.count("attention.head_count"), _head_dim(settings)
    settings.refuse({
        "attention.value_length": ((head_dim,), f"values are as wide as keys, {head_dim}"),
        "rope.dimension_count": ((head_dim,), f"all {head_dim} dims of a head are turned"),
        "expert_count": ((0,), "there is no mixture of experts"),
        "attention.causal": ((True,), "a token sees those before it only"),
        "attention.scale": ((0.0,), "scores are divided by the root of head_dim"),
        "attention.clamp_kqv": ((0.0,), "nothing is clamped"),
        "attention.max_alibi_bias": ((0.0,), "positions are rotary and nothing else"),
        "attn_logit_softcapping": ((0.0,), "scores are not capped"),
        "final_logit_softcapping": ((0.0,), "logits are not capped"),
        "logit_scale": ((0.0, 1.0), "logits are not scaled"),
        "residual_scale": ((0.0, 1.0), "residuals are not scaled"),
        "embedding_scale": ((0.0, 1.0), "embeddings are not scaled"),
        "use_parallel_residual": ((False,), "attention comes before the MLP"),
        "rope.scaling.attn_factor": ((1.0,), "rotary positions do not scale scores"),
    })
    tokens = file.tensors.get("token_embd.weight")
    rows = tokens.shape[0] if tokens else len(file.metadata.get("tokenizer.ggml.tokens", ()))
    window = settings.count("attention.sliding_window", 0, least=0)
    return {
        "family": "llama",
        "num_layers": settings.count("block_count"),
        "model_dim": settings.count("embedding_length"),
        "num_heads": num_heads,
        "num_kv_heads": settings.count("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "mlp_dim": settings.count("feed_forward_length"),
        "vocab_size": settings.count("vocab_size", rows),
        "tied": "output.weight" not in file.tensors,
        "norm_eps": _decimal(settings.number("attention.layer_norm_rms_epsilon", 1e-5)),
        "rope_theta": _decimal(settings.number("rope.freq_base", 10_000.0)),
        "rope": _rope(settings) if _FACTORS not in file.tensors else _llama3(settings, file),
        "window": window or None,
        "qkv_bias": "blk.0.attn_q.bias" in file.tensors,
        "output_bias": "blk.0.attn_output.bias" in file.tensors,
        "qk_norm": "head" if "blk.0.attn_q_norm.weight" in file.tensors else None,
    }


def _head_dim(settings: CheckedValues) -> int:
    whole = settings.count("embedding_length") // settings.count("attention.head_count")
    return settings.count("attention.key_length", max(whole, 1))


def _rope(settings: CheckedValues) -> RopeConfig:
    """As llama.cpp reads it: linear if no type is named, and a factor of 0 is none."""
    kind = settings.get("rope.scaling.type", "linear")
    if kind not in ("none", "linear"):
        raise UserError(
            f"{settings.where}: rope.scaling.type={kind!r} is not supported in GGUF (none and "
            "linear are); use the checkpoint's safetensors"
        )
    names = [n for n in ("rope.scaling.factor", "rope.scale_linear") if settings.get(n) is not None]
    factors = [settings.number(n) if settings.get(n) != 0 else 1.0 for n in names] or [1.0]
    if factors[0] != factors[-1]:
        raise UserError(
            f"{settings.where}: {names[0]}={factors[0]:g} and {names[1]}={factors[1]:g} are one "
            "setting and differ; use a file that was converted again, or the safetensors"
        )
    factor = _decimal(factors[0])
    return RopeConfig() if kind == "none" or factor == 1 else RopeConfig("linear", factor=factor)


def _llama3(settings: CheckedValues, file: GgufFile) -> RopeConfig:
    """The rule of Llama 3.1 and later, if the file's factors are those that it gives.

    Raises:
      UserError: they are of another rule, or a second one is named beside them.
    """
    named, factors = _rope(settings), file.read(_FACTORS)
    head_dim = _head_dim(settings)
    theta = _decimal(settings.number("rope.freq_base", 10_000.0))
    rope = replace(LLAMA3, factor=_decimal(float(factors.max())))
    plain, _ = inverse_frequencies(head_dim, theta=theta, rope=RopeConfig())
    wanted = plain / inverse_frequencies(head_dim, theta=theta, rope=rope)[0]
    if named.type != "none" or factors.shape != wanted.shape or not np.allclose(
        factors, wanted, rtol=1e-5
    ):
        raise UserError(
            f"{settings.where}: {_FACTORS} holds other factors of the rotary frequencies than "
            "Llama 3.1's rule gives; use the checkpoint's safetensors, whose config.json names the "
            "rule"
        )
    return rope


def _decimal(value: float) -> float:
    """The shortest decimal of the same float32: 1e-05 for 9.99999975e-06."""
    return float(str(np.float32(value)))


def _special_tokens(file: GgufFile) -> dict[str, int | list[int]]:
    names = {"bos": "bos", "eos": "eos", "pad": "padding"}
    ids = {name: file.metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    return {name: value for name, value in ids.items() if value is not None}
