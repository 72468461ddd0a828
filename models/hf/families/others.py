"""Relatives of Llama that differ in a line or two: Seed-OSS, CWM, EXAONE 4."""

from dataclasses import replace
from typing import Any

from seq1f1b_jax.models.hf.families.family import Family, Fields, read_sizes, write_sizes
from seq1f1b_jax.models.hf.families.layers import FULL, SLIDING, read_layers, written
from seq1f1b_jax.models.hf.families.llama import RULES
from seq1f1b_jax.models.hf.families.olmo import after
from seq1f1b_jax.models.hf.settings import CheckedValues
from seq1f1b_jax.models.llama import Llama

_CWM_ROPE = {
    "rope_type": "llama3", "rope_theta": 1_000_000.0, "factor": 16.0, "high_freq_factor": 4.0,
    "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
}


def _read_seed_oss(settings: CheckedValues) -> tuple[Fields, int]:
    fields = read_sizes(settings, kv_heads=8, head_dim=128) | {
        "qkv_bias": settings.flag("attention_bias", True),
        "output_bias": settings.flag("attention_out_bias", False),
        "mlp_bias": settings.flag("mlp_bias", False),
    }
    return fields, settings.count("max_position_embeddings", 524_288)


def _write_seed_oss(stage: Llama, length: int | None) -> dict[str, Any] | None:
    return write_sizes(stage, length) | {
        "attention_bias": stage.qkv_bias, "attention_out_bias": stage.output_bias,
        "mlp_bias": stage.mlp_bias, "attention_dropout": 0.0, "residual_dropout": 0.0,
    }


def _read_cwm(settings: CheckedValues) -> tuple[Fields, int]:
    if not any(settings.get(name) for name in ("rope_parameters", "rope_scaling", "rope_theta")):
        settings = CheckedValues({**settings.values, "rope_parameters": _CWM_ROPE}, settings.where)
    fields = read_sizes(settings, kv_heads=8, head_dim=128, norm_eps=1e-5)
    fields["mlp_bias"] = settings.flag("mlp_bias", False)
    num_layers = fields["num_layers"]
    otherwise = [SLIDING if layer % 4 else FULL for layer in range(num_layers)]
    window = settings.count("sliding_window", 8192)
    fields |= read_layers(settings, num_layers=num_layers, window=window, otherwise=otherwise)
    return fields, settings.count("max_position_embeddings", 131_072)


def _write_cwm(stage: Llama, length: int | None) -> dict[str, Any] | None:
    kinds = written(stage)
    if kinds is None or stage.window is None:
        return None
    return write_sizes(stage, length) | {
        "sliding_window": stage.window, "layer_types": kinds, "mlp_bias": stage.mlp_bias,
    }


def _read_exaone4(settings: CheckedValues) -> tuple[Fields, int]:
    fields = read_sizes(settings, kv_heads=32, norm_eps=1e-5)
    fields |= {"norm_placement": "after", "qk_norm": "head"}
    length = settings.count("max_position_embeddings", 2048)
    if settings.get("sliding_window", 4096) is None:
        return fields | {"window": None}, length
    num_layers, otherwise = fields["num_layers"], []
    if not settings.texts("layer_types"):
        period = settings.count("sliding_window_pattern", 4)
        otherwise = [SLIDING if (layer + 1) % period else FULL for layer in range(num_layers)]
    window = settings.count("sliding_window", 4096)
    fields |= read_layers(settings, num_layers=num_layers, window=window, otherwise=otherwise)
    # beside window layers, those that see all have no positions
    if fields["layer_pattern"] is not None:
        kinds = {"full": "unrotated", "window": "window"}
        fields["layer_pattern"] = [kinds[kind] for kind in fields["layer_pattern"]]
    elif fields["window"] is None:
        fields["layer_pattern"] = ["unrotated"]
    return fields, length


def _write_exaone4(stage: Llama, length: int | None) -> dict[str, Any] | None:
    if "full" in stage.layer_kinds:
        return None
    renamed = {"unrotated": "full", "window": "window"}
    plain = tuple(renamed[kind] for kind in stage.layer_kinds)
    kinds = written(replace(stage, layer_pattern=plain))
    assert kinds is not None  # both have names
    window = stage.window
    if stage.layer_kinds and window is None:  # no layer has positions, and one needs a size
        window = length or 1
    return write_sizes(stage, length) | {"sliding_window": window, "layer_types": kinds}


SEED_OSS = Family("SeedOssForCausalLM", "seed_oss", RULES, _read_seed_oss, _write_seed_oss)
CWM = Family("CwmForCausalLM", "cwm", RULES, _read_cwm, _write_cwm)
EXAONE4 = Family("Exaone4ForCausalLM", "exaone4", after(RULES), _read_exaone4, _write_exaone4)
