"""Small models of every kind that a checkpoint can hold, and parameters for them."""

from functools import cache

import jax
import numpy as np

from seq1f1b_jax.config import RopeConfig
from seq1f1b_jax.models import build_stage

SIZES = {"num_layers": 5, "model_dim": 12, "num_heads": 4, "mlp_dim": 20, "vocab_size": 11}
STAGES = {
    "llama": build_stage("llama", **SIZES, num_kv_heads=2, head_dim=6),
    "llama tied biases": build_stage(
        "llama", **{**SIZES, "num_heads": 2}, tied=True, qkv_bias=True, output_bias=True),
    "llama3 rope": build_stage(
        "llama", **{**SIZES, "num_heads": 2},
        rope=RopeConfig("llama3", factor=8.0, original_max_positions=64)),
    "mistral": build_stage("llama", **{**SIZES, "num_heads": 2}, window=3),
    "qwen2": build_stage("llama", **{**SIZES, "num_heads": 2}, qkv_bias=True),
    "experts": build_stage(
        "llama", **SIZES, num_kv_heads=2, head_dim=6, qk_norm="head", num_experts=3,
        experts_per_token=2),
    "gpt2": build_stage("gpt", **SIZES, max_positions=9, tied=True),
    "gpt2 untied": build_stage("gpt", **SIZES, max_positions=9),
}


@cache
def parameters(stage, dtype=np.float32):
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(stage.init, jax.random.key(0))
    return jax.tree.map(lambda s: rng.normal(size=s.shape).astype(dtype), shapes)
