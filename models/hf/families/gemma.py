"""Gemma 1, 2 and 3 (text): norms of 1 + weight, GELU, embeddings times the root of the width."""

import math
from collections.abc import Callable
from typing import Any

from seq1f1b_jax.models.hf.families.family import GELU, Family, Fields, read_sizes, write_sizes
from seq1f1b_jax.models.hf.families.layers import FULL, SLIDING, read_layers, written
from seq1f1b_jax.models.hf.families.llama import RULES
from seq1f1b_jax.models.hf.rope import read_rope_by_kind, write_rope_by_kind
from seq1f1b_jax.models.hf.rules import rule
from seq1f1b_jax.models.hf.settings import CheckedValues
from seq1f1b_jax.models.llama import Llama

_BOTH = {
    "layers.mlp_norm.scale": "pre_feedforward_layernorm",
    "layers.attention_post_norm.scale": "post_attention_layernorm",
    "layers.mlp_post_norm.scale": "post_feedforward_layernorm",
}
RULES_BOTH = (
    *(one for one in RULES if one.leaves[0] not in _BOTH),
    *(rule(f"model.layers.{{}}.{name}.weight", leaf, "d", "d") for leaf, name in _BOTH.items()),
)


def _read(settings: CheckedValues, *, placement: str, rope: bool = True) -> Fields:
    settings.refuse({
        "use_bidirectional_attention": ((False, None), "a token sees those before it only"),
        "attention_bias": ((False, None), "attention has no biases: use another checkpoint"),
    })
    kv_heads = {"before": None, "both": 4}[placement]
    fields = read_sizes(
        settings, kv_heads=kv_heads, head_dim=256, tied=True, activations={"gelu": GELU}, rope=rope
    )
    return fields | {
        "norm_placement": placement, "norm_offset": True,
        "embedding_scale": math.sqrt(fields["model_dim"]),
    }


def _caps(settings: CheckedValues, *, scores: float | None, logits: float | None) -> Fields:
    """Soft caps, null for none, and the scale of scores."""
    caps: Fields = {"attention_scale": settings.number("query_pre_attn_scalar", 256.0) ** -0.5}
    for name, ours, default in (
        ("attn_logit_softcapping", "attention_softcap", scores),
        ("final_logit_softcapping", "logit_softcap", logits),
    ):
        cap = settings.get(name, default)
        caps[ours] = None if cap is None else settings.number(name, default or 1.0)
    return caps


def _read_gemma(settings: CheckedValues) -> tuple[Fields, int]:
    return _read(settings, placement="before"), settings.count("max_position_embeddings", 8192)


def _read_gemma2(settings: CheckedValues) -> tuple[Fields, int]:
    fields = _read(settings, placement="both") | _caps(settings, scores=50.0, logits=30.0)
    return fields | _layers(settings, fields, period=2), settings.count(
        "max_position_embeddings", 8192
    )


def _read_gemma3(settings: CheckedValues) -> tuple[Fields, int]:
    fields = _read(settings, placement="both", rope=False)
    fields |= _caps(settings, scores=None, logits=None) | {"qk_norm": "head"}
    fields |= _layers(settings, fields, period=settings.count("sliding_window_pattern", 6))
    theta, rope, local = read_rope_by_kind(settings, theta=1_000_000.0, local=10_000.0)
    fields |= {"rope_theta": theta, "rope": rope}
    if fields["layer_pattern"] is not None:
        fields["window_rope_theta"] = local
    elif fields["window"] is not None:  # all layers have windows
        fields |= {"rope_theta": local, "rope": type(rope)()}
    return fields, settings.count("max_position_embeddings", 131_072)


def _layers(settings: CheckedValues, fields: Fields, *, period: int) -> Fields:
    num_layers = fields["num_layers"]
    otherwise = [SLIDING if (layer + 1) % period else FULL for layer in range(num_layers)]
    window = settings.count("sliding_window", 4096)
    return read_layers(settings, num_layers=num_layers, window=window, otherwise=otherwise)


def _write(stage: Llama, length: int | None) -> dict[str, Any] | None:
    if not stage.norm_offset:
        return None
    found = write_sizes(stage, length)
    return found | {"hidden_activation": found["hidden_act"], "attention_bias": False}


def _write_layers(stage: Llama, length: int | None) -> dict[str, Any] | None:
    found = _write(stage, length)
    kinds = written(stage)
    if found is None or kinds is None or not stage.attention_scale:
        return None
    scalar = stage.attention_scale**-2
    return found | {
        # most are whole numbers, and transformers wants them so
        "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-9 else scalar,
        "attn_logit_softcapping": stage.attention_softcap,
        "final_logit_softcapping": stage.logit_softcap,
        "layer_types": kinds,
        **({} if stage.window is None else {"sliding_window": stage.window}),
    }


def _write_gemma3(stage: Llama, length: int | None) -> dict[str, Any] | None:
    found = _write_layers(stage, length)
    if found is None or not stage.layer_kinds:
        return found
    return found | write_rope_by_kind(
        stage.rope_theta, stage.rope, local=stage.window_rope_theta, head_dim=stage.head_dim
    )


def _family(version: str, rules, read: Callable, write: Callable) -> Family:
    kind = {"3": "gemma3_text"}.get(version, f"gemma{version}")
    return Family(f"Gemma{version}ForCausalLM", kind, rules, read, write)


GEMMA = _family("", RULES, _read_gemma, _write)
GEMMA2 = _family("2", RULES_BOTH, _read_gemma2, _write_layers)
GEMMA3 = _family("3", RULES_BOTH, _read_gemma3, _write_gemma3)
