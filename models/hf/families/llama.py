"""Llama, Mistral, Ministral, Qwen2, Qwen3, SmolLM3 and Granite 3: one table of tensors."""

from typing import Any

from seq1f1b_jax.config import UserError
from seq1f1b_jax.models.hf.families.family import Family, Fields, read_sizes, write_sizes
from seq1f1b_jax.models.hf.families.layers import FULL, SLIDING, read_layers, shortest, written
from seq1f1b_jax.models.hf.rules import rule
from seq1f1b_jax.models.hf.settings import CheckedValues, short
from seq1f1b_jax.models.llama import Llama

RULES = (
    rule("model.embed_tokens.weight", "embedding", "v d", "v d"),
    rule("model.layers.{}.input_layernorm.weight", "layers.attention_norm.scale", "d", "d"),
    rule("model.layers.{}.self_attn.q_proj.weight", "layers.attention.query.kernel",
         "(h e) d", "d (h e)"),
    rule("model.layers.{}.self_attn.k_proj.weight", "layers.attention.key.kernel",
         "(k e) d", "d (k e)"),
    rule("model.layers.{}.self_attn.v_proj.weight", "layers.attention.value.kernel",
         "(k e) d", "d (k e)"),
    rule("model.layers.{}.self_attn.q_proj.bias", "layers.attention.query.bias",
         "(h e)", "(h e)"),
    rule("model.layers.{}.self_attn.k_proj.bias", "layers.attention.key.bias", "(k e)", "(k e)"),
    rule("model.layers.{}.self_attn.v_proj.bias", "layers.attention.value.bias",
         "(k e)", "(k e)"),
    rule("model.layers.{}.self_attn.q_norm.weight", "layers.attention.query_norm.scale", "e", "e"),
    rule("model.layers.{}.self_attn.k_norm.weight", "layers.attention.key_norm.scale", "e", "e"),
    rule("model.layers.{}.self_attn.o_proj.weight", "layers.attention.output.kernel",
         "d (h e)", "h e d"),
    rule("model.layers.{}.self_attn.o_proj.bias", "layers.attention.output.bias", "d", "d"),
    rule("model.layers.{}.post_attention_layernorm.weight", "layers.mlp_norm.scale", "d", "d"),
    rule("model.layers.{}.mlp.gate_proj.weight", "layers.mlp.gate.kernel", "f d", "d f"),
    rule("model.layers.{}.mlp.gate_proj.bias", "layers.mlp.gate.bias", "f", "f"),
    rule("model.layers.{}.mlp.up_proj.weight", "layers.mlp.up.kernel", "f d", "d f"),
    rule("model.layers.{}.mlp.up_proj.bias", "layers.mlp.up.bias", "f", "f"),
    rule("model.layers.{}.mlp.down_proj.weight", "layers.mlp.down.kernel", "d f", "f d"),
    rule("model.layers.{}.mlp.down_proj.bias", "layers.mlp.down.bias", "d", "d"),
    rule("model.norm.weight", "last.scale", "d", "d"),
    rule("lm_head.weight", "head", "v d", "v d"),
)


def _biases(settings: CheckedValues) -> Fields:
    bias = settings.flag("attention_bias", False)
    mlp = settings.flag("mlp_bias", False)
    return {"qkv_bias": bias, "output_bias": bias, "mlp_bias": mlp}


def _only(settings: CheckedValues, only: str) -> None:
    kinds = sorted(set(settings.texts("layer_types") or [only]))
    if kinds != [only]:
        raise UserError(
            f"{settings.where}: layer_types holds {', '.join(kinds)} and the other settings mean "
            f"{only} in all layers of this architecture; correct the one that is wrong"
        )


def _read_llama(settings: CheckedValues) -> tuple[Fields, int]:
    _only(settings, FULL)
    fields = read_sizes(settings) | _biases(settings) | {"window": None}
    return fields, settings.count("max_position_embeddings", 2048)


def _write_llama(stage: Llama, length: int | None) -> dict[str, Any] | None:
    # Llama refuses a width that its heads do not divide; Mistral without a window is the same.
    if stage.model_dim % stage.num_heads and not stage.qkv_bias:
        return None
    biases = {"attention_bias": stage.qkv_bias, "mlp_bias": stage.mlp_bias}
    return write_sizes(stage, length) | biases


def _window(settings: CheckedValues) -> int | None:
    """An absent setting has transformers' default; null means no window."""
    if settings.get("sliding_window", 4096) is None:
        return None
    return settings.count("sliding_window", 4096)


def _read_mistral(settings: CheckedValues) -> tuple[Fields, int]:
    window = _window(settings)
    _only(settings, FULL if window is None else SLIDING)
    fields = read_sizes(settings, kv_heads=8) | {"window": window}
    return fields, settings.count("max_position_embeddings", 131_072)


def _write_mistral(stage: Llama, length: int | None) -> dict[str, Any] | None:
    if stage.layer_pattern:
        return None
    return write_sizes(stage, length) | {"sliding_window": stage.window}


def _read_ministral(settings: CheckedValues) -> tuple[Fields, int]:
    fields, window = read_sizes(settings, kv_heads=8), _window(settings)
    otherwise = [FULL if window is None else SLIDING] * fields["num_layers"]
    fields |= read_layers(
        settings, num_layers=fields["num_layers"], window=window, otherwise=otherwise
    )
    return fields, settings.count("max_position_embeddings", 131_072)


def _write_ministral(stage: Llama, length: int | None) -> dict[str, Any] | None:
    kinds = written(stage)
    if kinds is None:
        return None
    return write_sizes(stage, length) | {"sliding_window": stage.window, "layer_types": kinds}


def _qwen_layers(settings: CheckedValues, num_layers: int) -> Fields:
    window = _window(settings) if settings.flag("use_sliding_window", False) else None
    if window is None:
        return {"window": None, "layer_pattern": None}
    full = settings.count("max_window_layers", 28, least=0)
    otherwise = [FULL if layer < full else SLIDING for layer in range(num_layers)]
    return read_layers(settings, num_layers=num_layers, window=window, otherwise=otherwise)


def _write_qwen_layers(stage: Llama) -> dict[str, Any] | None:
    kinds = written(stage)
    if kinds is None:
        return None
    return {
        "use_sliding_window": stage.window is not None,
        "sliding_window": stage.window,
        "max_window_layers": kinds.index(SLIDING) if SLIDING in kinds else stage.num_layers,
        "layer_types": kinds,
    }


def _read_qwen2(settings: CheckedValues) -> tuple[Fields, int]:
    fields = read_sizes(settings, kv_heads=32)
    fields |= {"qkv_bias": True, **_qwen_layers(settings, fields["num_layers"])}
    return fields, settings.count("max_position_embeddings", 32_768)


def _write_qwen2(stage: Llama, length: int | None) -> dict[str, Any] | None:
    layers = _write_qwen_layers(stage)
    return None if layers is None else write_sizes(stage, length) | layers


def _read_qwen3(settings: CheckedValues) -> tuple[Fields, int]:
    fields = read_sizes(settings, kv_heads=32, head_dim=128)
    bias = settings.flag("attention_bias", False)
    fields |= {"qkv_bias": bias, "output_bias": bias, "qk_norm": "head"}
    fields |= _qwen_layers(settings, fields["num_layers"])
    return fields, settings.count("max_position_embeddings", 32_768)


def _write_qwen3(stage: Llama, length: int | None) -> dict[str, Any] | None:
    found = _write_qwen2(stage, length)
    return None if found is None else found | {"attention_bias": stage.qkv_bias}


def _read_smollm3(settings: CheckedValues) -> tuple[Fields, int]:
    settings.refuse({
        "use_sliding_window": ((False, None), "layers without positions see all: use another one"),
    })
    _only(settings, FULL)
    fields = read_sizes(settings, kv_heads=4, tied=True, theta=2_000_000.0)
    rotary = _rotary_layers(settings, fields["num_layers"])
    pattern = shortest(["full" if turned else "unrotated" for turned in rotary])
    fields |= {"layer_pattern": None if all(rotary) else pattern} | _biases(settings)
    return fields, settings.count("max_position_embeddings", 32_768)


def _rotary_layers(settings: CheckedValues, num_layers: int) -> list[bool]:
    given = settings.get("no_rope_layers")  # 1 is a layer with positions
    if given is None:
        interval = settings.count("no_rope_layer_interval", 4)
        return [bool((layer + 1) % interval) for layer in range(num_layers)]
    if not isinstance(given, list) or len(given) < num_layers or set(given) - {0, 1}:
        raise UserError(
            f"{settings.where}: no_rope_layers={short(given)} is no list of 0 and 1 for "
            f"{num_layers} layers; correct it"
        )
    return [bool(turned) for turned in given[:num_layers]]


def _write_smollm3(stage: Llama, length: int | None) -> dict[str, Any] | None:
    if stage.window is not None:
        return None
    turned = [int(kind != "unrotated") for kind in stage.layer_kinds] or [1] * stage.num_layers
    return write_sizes(stage, length) | {
        "no_rope_layers": turned, "use_sliding_window": False, "sliding_window": None,
        "attention_bias": stage.qkv_bias, "mlp_bias": stage.mlp_bias,
        "layer_types": [FULL] * stage.num_layers,
    }


_MULTIPLIERS = {
    "embedding_multiplier": "embedding_scale", "residual_multiplier": "residual_scale",
    "attention_multiplier": "attention_scale",
}


def _read_granite(settings: CheckedValues) -> tuple[Fields, int]:
    fields = read_sizes(settings) | _biases(settings)
    scales = {ours: settings.number(theirs, 1.0) for theirs, ours in _MULTIPLIERS.items()}
    scales["logit_scale"] = 1 / settings.number("logits_scaling", 1.0)
    return fields | scales, settings.count("max_position_embeddings", 2048)


def _write_granite(stage: Llama, length: int | None) -> dict[str, Any] | None:
    scales = {theirs: getattr(stage, ours) or 1.0 for theirs, ours in _MULTIPLIERS.items()}
    scales["attention_multiplier"] = stage.attention_scale or stage.head_dim**-0.5
    return write_sizes(stage, length) | scales | {
        "logits_scaling": 1 / (stage.logit_scale or 1.0), "attention_bias": stage.qkv_bias,
        "mlp_bias": stage.mlp_bias,
    }


LLAMA = Family("LlamaForCausalLM", "llama", RULES, _read_llama, _write_llama)
MISTRAL = Family("MistralForCausalLM", "mistral", RULES, _read_mistral, _write_mistral)
MINISTRAL = Family("MinistralForCausalLM", "ministral", RULES, _read_ministral, _write_ministral)
QWEN2 = Family("Qwen2ForCausalLM", "qwen2", RULES, _read_qwen2, _write_qwen2)
QWEN3 = Family("Qwen3ForCausalLM", "qwen3", RULES, _read_qwen3, _write_qwen3)
SMOLLM3 = Family("SmolLM3ForCausalLM", "smollm3", RULES, _read_smollm3, _write_smollm3)
GRANITE = Family("GraniteForCausalLM", "granite", RULES, _read_granite, _write_granite)
