"""OLMo 2 and 3: norms after a sublayer, and one norm over all heads of queries, and of keys."""

from typing import Any

from seq1f1b_jax.models.hf.families.family import Family, Fields, read_sizes, write_sizes
from seq1f1b_jax.models.hf.families.layers import FULL, SLIDING, read_layers, written
from seq1f1b_jax.models.hf.families.llama import RULES as LLAMA_RULES
from seq1f1b_jax.models.hf.rope import read_rope_by_kind, write_rope_by_kind
from seq1f1b_jax.models.hf.rules import Rule, replaced, rule
from seq1f1b_jax.models.hf.settings import CheckedValues
from seq1f1b_jax.models.llama import Llama


def after(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """The table of a model whose norms come after a sublayer, from one with norms before it."""
    kept = (one for one in rules if one.leaves[0] != "layers.attention_norm.scale")
    post = {
        "layers__mlp_norm__scale": rule(
            "model.layers.{}.post_attention_layernorm.weight", "layers.attention_post_norm.scale",
            "d", "d",
        )
    }
    return (
        *replaced(tuple(kept), **post),
        rule("model.layers.{}.post_feedforward_layernorm.weight", "layers.mlp_post_norm.scale",
             "d", "d"),
    )


QK_NORMS = {
    "layers__attention__query_norm__scale": rule(
        "model.layers.{}.self_attn.q_norm.weight", "layers.attention.query_norm.scale",
        "(h e)", "(h e)",
    ),
    "layers__attention__key_norm__scale": rule(
        "model.layers.{}.self_attn.k_norm.weight", "layers.attention.key_norm.scale",
        "(k e)", "(k e)",
    ),
}
"""One norm over all heads, for `replaced`."""
RULES = replaced(after(LLAMA_RULES), **QK_NORMS)


def _read(settings: CheckedValues, *, rope: bool = True) -> Fields:
    theta = 10_000.0 if rope else 500_000.0
    fields = read_sizes(settings, norm_eps=1e-5, theta=theta, rope=rope)
    bias = settings.flag("attention_bias", False)
    return fields | {
        "qkv_bias": bias, "output_bias": bias, "norm_placement": "after", "qk_norm": "width",
    }


def _read_olmo2(settings: CheckedValues) -> tuple[Fields, int]:
    return _read(settings), settings.count("max_position_embeddings", 2048)


def _read_olmo3(settings: CheckedValues) -> tuple[Fields, int]:
    fields = _read(settings, rope=False)
    num_layers = fields["num_layers"]
    otherwise = [SLIDING if (layer + 1) % 4 else FULL for layer in range(num_layers)]
    window = settings.count("sliding_window", 4096)
    fields |= read_layers(settings, num_layers=num_layers, window=window, otherwise=otherwise)
    theta, rope, local = read_rope_by_kind(settings, theta=500_000.0, local=None)
    fields |= {"rope_theta": theta, "rope": rope}
    if fields["layer_pattern"] is not None:
        fields["window_rope_theta"] = local
    elif fields["window"] is not None:  # all layers have windows
        fields |= {"rope_theta": local, "rope": type(rope)()}
    return fields, settings.count("max_position_embeddings", 2048)


def _write_olmo2(stage: Llama, length: int | None) -> dict[str, Any] | None:
    if stage.norm_placement != "after":
        return None
    return write_sizes(stage, length) | {"attention_bias": stage.qkv_bias}


def _write_olmo3(stage: Llama, length: int | None) -> dict[str, Any] | None:
    found = _write_olmo2(stage, length)
    kinds = written(stage)
    if found is None or kinds is None:
        return None
    found |= {"layer_types": kinds}
    found |= {} if stage.window is None else {"sliding_window": stage.window}
    return found | write_rope_by_kind(
        stage.rope_theta, stage.rope, local=stage.window_rope_theta, head_dim=stage.head_dim
    )


OLMO2 = Family("Olmo2ForCausalLM", "olmo2", RULES, _read_olmo2, _write_olmo2)
OLMO3 = Family("Olmo3ForCausalLM", "olmo3", RULES, _read_olmo3, _write_olmo3)
