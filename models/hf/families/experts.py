"""Qwen3-MoE, Mixtral and OLMoE: experts in every layer."""

from typing import Any

from seq1f1b_jax.models.hf.families.family import Family, Fields, read_sizes, write_sizes
from seq1f1b_jax.models.hf.families.llama import RULES as LLAMA_RULES
from seq1f1b_jax.models.hf.families.olmo import QK_NORMS
from seq1f1b_jax.models.hf.rules import Rule, replaced, rule
from seq1f1b_jax.models.hf.settings import CheckedValues
from seq1f1b_jax.models.llama import Llama

DENSE = "all layers have experts here: use another checkpoint"


def _with_experts(block: str, gate: str, up: str, down: str, **others: Rule) -> tuple[Rule, ...]:
    """The table of Llama with experts in the place of the MLP, by their names below a layer."""
    expert = f"model.layers.{{}}.{block}.experts.{{}}"
    kept = (one for one in LLAMA_RULES if not one.leaves[0].startswith("layers.mlp."))
    name = f"model.layers.{{}}.{block}.gate.weight"
    router = rule(name, "layers.mlp.router.kernel", "x d", "d x")
    names = {"gate": (gate, "f d", "d f"), "up": (up, "f d", "d f"), "down": (down, "d f", "f d")}
    experts = (
        rule(f"{expert}.{name}.weight", f"layers.mlp.experts.{ours}.kernel", *patterns)
        for ours, (name, *patterns) in names.items()
    )
    *layers, norm, head = replaced(tuple(kept), **others)
    return (*layers, router, *experts, norm, head)


RULES = _with_experts("mlp", "gate_proj", "up_proj", "down_proj")
MIXTRAL_RULES = _with_experts("block_sparse_moe", "w1", "w3", "w2")
OLMOE_RULES = _with_experts("mlp", "gate_proj", "up_proj", "down_proj", **QK_NORMS)


def _read_experts(settings: CheckedValues, *names: str, count: int, chosen: int) -> Fields:
    given = next((name for name in names if name in settings), names[0])
    return {
        "num_experts": settings.count(given, count),
        "experts_per_token": settings.count("num_experts_per_tok", chosen),
        "normalize_experts": settings.flag("norm_topk_prob", False),
    }


def _write_experts(stage: Llama, *names: str) -> dict[str, Any]:
    return dict.fromkeys(names, stage.num_experts) | {
        "num_experts_per_tok": stage.experts_per_token, "norm_topk_prob": stage.normalize_experts,
    }


def _read_qwen3(settings: CheckedValues) -> tuple[Fields, int]:
    settings.refuse({"decoder_sparse_step": ((1,), DENSE), "mlp_only_layers": (([], None), DENSE)})
    bias = settings.flag("attention_bias", False)
    window = None
    if settings.flag("use_sliding_window", False) and settings.get("sliding_window", 1) is not None:
        window = settings.count("sliding_window", 4096)
    fields = read_sizes(settings, kv_heads=4) | {
        "qkv_bias": bias, "output_bias": bias, "qk_norm": "head", "window": window,
        "mlp_dim": settings.count("moe_intermediate_size", 768),
    }
    # transformers 4 and 5 name them differently
    fields |= _read_experts(settings, "num_experts", "num_local_experts", count=128, chosen=8)
    return fields, settings.count("max_position_embeddings", 32_768)


def _write_qwen3(stage: Llama, length: int | None) -> dict[str, Any] | None:
    if stage.layer_pattern or not stage.num_experts:
        return None
    return write_sizes(stage, length) | _write_experts(
        stage, "num_experts", "num_local_experts"
    ) | {
        "moe_intermediate_size": stage.mlp_dim, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "use_sliding_window": stage.window is not None, "sliding_window": stage.window,
        "attention_bias": stage.qkv_bias,
    }


def _read_mixtral(settings: CheckedValues) -> tuple[Fields, int]:
    settings.refuse({"router_jitter_noise": ((0, None), "it draws random numbers: set it to 0")})
    window = settings.get("sliding_window", None)
    fields = read_sizes(settings, kv_heads=8, norm_eps=1e-5, theta=1e6) | {
        "window": None if window is None else settings.count("sliding_window"),
    }
    fields |= _read_experts(settings, "num_local_experts", "num_experts", count=8, chosen=2)
    fields["normalize_experts"] = True
    return fields, settings.count("max_position_embeddings", 131_072)


def _write_mixtral(stage: Llama, length: int | None) -> dict[str, Any] | None:
    if stage.layer_pattern or not stage.num_experts:
        return None
    experts = _write_experts(stage, "num_local_experts")
    del experts["norm_topk_prob"]
    return write_sizes(stage, length) | experts | {"sliding_window": stage.window}


def _read_olmoe(settings: CheckedValues) -> tuple[Fields, int]:
    why = "queries, keys and values are not clipped here: use another checkpoint"
    settings.refuse({"clip_qkv": ((None,), why)})
    bias = settings.flag("attention_bias", False)
    fields = read_sizes(settings, norm_eps=1e-5) | {
        "qkv_bias": bias, "output_bias": bias, "qk_norm": "width",
    }
    fields |= _read_experts(settings, "num_experts", "num_local_experts", count=64, chosen=8)
    return fields, settings.count("max_position_embeddings", 4096)


def _write_olmoe(stage: Llama, length: int | None) -> dict[str, Any] | None:
    if stage.layer_pattern or stage.window is not None or not stage.num_experts:
        return None
    experts = _write_experts(stage, "num_experts")
    return write_sizes(stage, length) | experts | {
        "clip_qkv": None, "attention_bias": stage.qkv_bias,
    }


MIXTRAL = Family("MixtralForCausalLM", "mixtral", MIXTRAL_RULES, _read_mixtral, _write_mixtral)
OLMOE = Family("OlmoeForCausalLM", "olmoe", OLMOE_RULES, _read_olmoe, _write_olmoe)
QWEN3_MOE = Family("Qwen3MoeForCausalLM", "qwen3_moe", RULES, _read_qwen3, _write_qwen3)
