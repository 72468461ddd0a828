"""Logits against a second implementation: NumPy, one sequence, one head, one token at a time."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.config import RopeConfig
from seq1f1b_jax.inference import logits
from seq1f1b_jax.models import build_stage

SIZES = {
    "num_layers": 3, "model_dim": 24, "num_heads": 4, "mlp_dim": 40, "vocab_size": 11,
    "max_positions": 32,
}
STAGES = {
    "gpt": build_stage("gpt", **SIZES),
    "gpt grouped tied": build_stage("gpt", **SIZES, num_kv_heads=1, tied=True),
    "llama": build_stage("llama", **SIZES),
    "llama grouped tied wide heads": build_stage(
        "llama", **SIZES, num_kv_heads=2, head_dim=10, tied=True
    ),
    "llama biases window stretched": build_stage(
        "llama", **SIZES, qkv_bias=True, output_bias=True, window=4,
        rope=RopeConfig("linear", factor=3.0),
    ),
}


@cache
def parameters(stage, dtype=np.float32):
    """Random parameters (no bias is 0, no scale is 1), made without a compilation."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(stage.init, jax.random.key(0))
    return jax.tree.map(lambda s: (0.3 * rng.normal(size=s.shape)).astype(dtype), shapes)


def plain_norm(p, x, eps):
    if "bias" in p:
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * p[
            "scale"] + p["bias"]
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * p["scale"]


def plain_linear(p, x):
    kernel = p["kernel"].reshape(x.shape[-1], -1)
    return x @ kernel + p.get("bias", 0.0)


def plain_turn(x, position, theta):
    half = len(x) // 2
    z = (x[:half] + 1j * x[half:]) * np.exp(1j * position * theta ** (-np.arange(half) / half))
    return np.concatenate([z.real, z.imag])


def plain_attention(stage, p, h):
    q, k, v = (plain_linear(p[name], h) for name in ("query", "key", "value"))
    length, size = len(h), stage.head_dim
    group = stage.num_heads // stage.num_kv_heads
    out = np.zeros((length, stage.num_heads * size))
    for head in range(stage.num_heads):
        mine, theirs = (slice(n * size, (n + 1) * size) for n in (head, head // group))
        qs, ks = q[:, mine], k[:, theirs]
        if stage.family == "llama":
            theta, slower = stage.rope_theta, stage.rope.factor
            qs = np.stack([plain_turn(x, t / slower, theta) for t, x in enumerate(qs)])
            ks = np.stack([plain_turn(x, t / slower, theta) for t, x in enumerate(ks)])
        for t in range(length):
            seen = slice(max(0, t + 1 - (stage.window or length)), t + 1)
            weights = np.exp(ks[seen] @ qs[t] / np.sqrt(size))
            out[t, mine] = weights / weights.sum() @ v[seen, theirs]
    return plain_linear(p["output"], out)


def plain_mlp(p, h):
    up = plain_linear(p["up"], h)
    if "gate" in p:
        gate = plain_linear(p["gate"], h)
        return plain_linear(p["down"], gate / (1 + np.exp(-gate)) * up)
    tanh = np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3))
    return plain_linear(p["down"], 0.5 * up * (1 + tanh))


def plain_logits(stage, params, tokens):
    x = params.embedding[tokens]
    if stage.family == "gpt":
        x = x + params.first["table"][: len(tokens)]
    for index in range(stage.num_layers):
        p = jax.tree.map(lambda w, index=index: w[index], params.layers)
        x = x + plain_attention(stage, p["attention"], plain_norm(p["attention_norm"], x, 1e-5))
        x = x + plain_mlp(p["mlp"], plain_norm(p["mlp_norm"], x, 1e-5))
    head = params.embedding if stage.tied else params.head
    return plain_norm(params.last, x, 1e-5) @ head.T


@pytest.mark.parametrize("name", STAGES)
def test_logits_are_those_of_a_plain_transformer(name):
    stage = STAGES[name]
    with jax.enable_x64(True):
        params = parameters(stage, np.float64)
        tokens = np.random.default_rng(3).integers(0, stage.vocab_size, (2, 9))
        actual = jax.jit(logits, static_argnums=0)(stage, params, jnp.asarray(tokens))
        for row, sequence in zip(actual, tokens, strict=True):
            expected = plain_logits(stage, jax.tree.map(np.asarray, params), sequence)
            np.testing.assert_allclose(row, expected, rtol=1e-11, atol=1e-11)
