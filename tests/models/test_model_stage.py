"""Both families keep the `Stage` protocol, and a vjp of theirs keeps little."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.config import RopeConfig
from seq1f1b_jax.inference import logits
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline.params.positions import embed
from seq1f1b_jax.pipeline.stage import Params, Stage

SIZES = {
    "num_layers": 3, "model_dim": 24, "num_heads": 4, "mlp_dim": 40, "vocab_size": 11,
    "max_positions": 32,
}
STAGES = {
    "gpt": build_stage("gpt", **SIZES),
    "gpt grouped tied": build_stage("gpt", **SIZES, num_kv_heads=1, tied=True),
    "gpt rotary": build_stage("gpt", **SIZES, positions="rotary"),
    "llama": build_stage("llama", **SIZES),
    "llama grouped tied wide heads": build_stage(
        "llama", **SIZES, num_kv_heads=2, head_dim=10, tied=True
    ),
    "llama biases stretched": build_stage(
        "llama", **SIZES, qkv_bias=True, output_bias=True,
        rope=RopeConfig("yarn", factor=4.0, original_max_positions=64),
    ),
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
B, T = 2, 5


@pytest.fixture(params=STAGES)
def stage(request):
    return STAGES[request.param]


@cache
def parameters(stage, dtype=np.float32):
    """Random parameters (no bias is 0, no scale is 1), made without a compilation."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(stage.init, jax.random.key(0))
    return jax.tree.map(lambda s: (0.3 * rng.normal(size=s.shape)).astype(dtype), shapes)


def layer_inputs(stage, dtype=np.float32):
    rng = np.random.default_rng(1)
    layer = jax.tree.map(lambda w: w[1], parameters(stage, dtype).layers)
    x = rng.normal(size=(B, T, stage.model_dim)).astype(dtype)
    attended = rng.normal(size=(B, T, stage.num_heads, stage.head_dim)).astype(dtype)
    return layer, x, attended, stage.context(jnp.arange(T, dtype=jnp.int32))


def test_protocol_and_layout(stage):
    assert isinstance(stage, Stage)
    params = jax.eval_shape(stage.init, jax.random.key(0))
    assert isinstance(params, Params)
    assert all(leaf.shape[0] == stage.num_layers for leaf in jax.tree.leaves(params.layers))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    assert params.embedding.shape == (stage.vocab_size, stage.model_dim)
    assert (params.head is None) == stage.tied
    assert all(isinstance(key.key, str) for path, _ in jax.tree.leaves_with_path(params.layers)
               for key in path)


def test_float32_parameters_under_x64(stage):
    with jax.enable_x64(True):
        params = jax.eval_shape(stage.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_and_dtypes(stage, dtype):
    dtype = DTYPES[dtype]
    layer, x, attended, context = layer_inputs(stage, dtype)
    params, positions = parameters(stage, dtype), np.arange(T, dtype=np.int32)
    q, k, v = jax.eval_shape(stage.pre, layer, x, context)
    assert q.shape == (B, T, stage.num_heads, stage.head_dim)
    assert k.shape == v.shape == (B, T, stage.num_kv_heads, stage.head_dim)
    like_x = [
        jax.eval_shape(stage.post, layer, x, attended),
        jax.eval_shape(stage.final, params.last, x),
        jax.eval_shape(partial(embed, stage), params.first, x, positions),
    ]
    assert all(value.shape == x.shape for value in like_x)
    assert {value.dtype for value in (q, k, v, *like_x)} == {jnp.dtype(dtype)}


def test_gradients_have_the_parameters_dtype(stage):
    layer, x, attended, context = layer_inputs(stage, jnp.bfloat16)

    def gradients(layer, x, attended):
        q, pull_pre = jax.vjp(lambda layer, x: stage.pre(layer, x, context), layer, x)
        y, pull_post = jax.vjp(stage.post, layer, x, attended)
        return pull_pre(q), pull_post(y)

    leaves = jax.tree.leaves(jax.eval_shape(gradients, layer, x, attended))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.bfloat16)}


def test_float64_all_the_way(stage):
    with jax.enable_x64(True):
        params = parameters(stage, np.float64)
        tokens = jnp.zeros((1, 4), jnp.int32)
        program = str(jax.make_jaxpr(partial(logits, stage, attention="xla_dense"))(params, tokens))
        assert "f64[" in program
        assert "f32[" not in program


def test_tokens_do_not_see_each_other(stage):
    """A NaN in one token reaches no other token's result."""
    layer, x, attended, context = layer_inputs(stage)
    last, first = parameters(stage).last, parameters(stage).first
    positions = jnp.arange(T, dtype=jnp.int32)
    others = np.array([t for t in range(T) if t != 2])

    @jax.jit
    def everything(x, attended):
        return (
            *stage.pre(layer, x, context), stage.post(layer, x, attended),
            stage.final(last, x), embed(stage, first, x, positions),
        )

    clean = everything(x, attended)
    x[:, 2] = attended[:, 2] = np.nan
    dirty = everything(x, attended)
    for a, b in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(np.asarray(a)[:, others], np.asarray(b)[:, others])
        assert np.isnan(np.asarray(b)[:, 2]).all()


def test_positions_are_those_of_the_argument(stage):
    """A chunk at an offset gives what the whole sequence gives there."""
    layer, x, _, _ = layer_inputs(stage)
    first = parameters(stage).first
    positions = np.arange(T, dtype=np.int32) + 7

    @jax.jit
    def run(x, positions):
        x = embed(stage, first, x, positions)
        return stage.pre(layer, x, stage.context(positions))

    whole, part = run(x, positions), run(x[:, 3:], positions[3:])
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_allclose(np.asarray(a)[:, 3:], b, rtol=1e-5, atol=1e-5)
    moved = run(x, positions + 1)
    assert np.abs(np.asarray(moved[0]) - np.asarray(whole[0])).max() > 1e-2


def test_positions_of_each_sequence(stage):
    """Positions `[B, T]` give each sequence what positions `[T]` give it alone."""
    layer, x, _, _ = layer_inputs(stage)
    first = parameters(stage).first
    positions = np.array([[0, 1, 2, 0, 1], [5, 6, 0, 1, 2]], np.int32)

    @jax.jit
    def run(x, positions):
        x = embed(stage, first, x, positions)
        return stage.pre(layer, x, stage.context(positions))

    both = run(x, positions)
    for row in range(B):
        alone = run(x[row : row + 1], positions[row])
        for a, b in zip(both, alone, strict=True):
            np.testing.assert_allclose(a[row : row + 1], b, rtol=1e-5, atol=1e-5)


def test_layers_differ_and_depend_on_key_and_index_only():
    deep = dataclasses.replace(STAGES["llama"], num_layers=4)
    shallow = dataclasses.replace(deep, num_layers=2)

    def queries(stage, seed):
        init = jax.jit(lambda key: stage.init(key).layers["attention"]["query"]["kernel"])
        return np.asarray(init(jax.random.key(seed)))

    kernel = queries(deep, 0)
    assert not np.array_equal(kernel[0], kernel[1])
    np.testing.assert_array_equal(kernel[:2], queries(shallow, 0))
    assert not np.array_equal(kernel, queries(deep, 1))


def test_initial_scales():
    stage = build_stage("gpt", preset="small")
    params = jax.jit(stage.init)(jax.random.key(0))
    layers = params.layers
    rel = 0.01  # of n drawn numbers it is off by 1/sqrt(2n): 0.28 % for the smallest, 65,536
    for kernel in (layers["attention"]["query"], layers["mlp"]["up"]):
        assert np.std(kernel["kernel"]) == pytest.approx(0.02, rel=rel)
    for kernel in (layers["attention"]["output"], layers["mlp"]["down"]):
        assert np.std(kernel["kernel"]) == pytest.approx(0.02 / np.sqrt(8), rel=rel)
    assert np.std(params.embedding) == pytest.approx(0.02, rel=rel)
    assert not np.array_equal(params.embedding, params.head)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["gpt", "llama"])
def test_residuals_are_few_and_weights_are_not_copied(family, dtype):
    """A vjp keeps the weights and inputs themselves, and the listed shapes per token."""
    stage, dtype = STAGES[family], DTYPES[dtype]
    wide = jnp.dtype(jnp.float32)
    d, f = (stage.model_dim,), (stage.mlp_dim,)
    statistics = [((), wide)] * (2 if family == "gpt" else 1)
    hidden = [(f, dtype)] * (2 if family == "gpt" else 3)
    expected = {
        "pre": [*statistics, (d, dtype)],
        "post": [(d, dtype), *statistics, (d, dtype), *hidden],
    }
    found = {}

    def look(layer, x, attended, context):
        calls = {
            "pre": (stage.pre, (layer, x, context)), "post": (stage.post, (layer, x, attended))
        }
        for name, (function, args) in calls.items():
            leaves = jax.tree.leaves(jax.vjp(function, *args)[1])
            given = {id(leaf) for leaf in jax.tree.leaves(args)}
            found[name] = [leaf for leaf in leaves if id(leaf) not in given]
        return 0

    jax.jit(look)(*layer_inputs(stage, dtype))
    for name, leaves in found.items():
        assert all(leaf.shape[:2] == (B, T) for leaf in leaves)
        actual = [(leaf.shape[2:], leaf.dtype) for leaf in leaves]
        key = lambda item: (item[0], str(item[1]))  # noqa: E731
        assert sorted(actual, key=key) == sorted(
            ((shape, jnp.dtype(kind)) for shape, kind in expected[name]), key=key
        )


def test_a_long_bfloat16_bias_gradient_is_summed_in_float32():
    stage = STAGES["gpt"]
    layer, *_ = layer_inputs(stage, jnp.bfloat16)
    tokens = 5000
    x = np.ones((1, tokens, stage.model_dim), jnp.bfloat16)
    attended = np.ones((1, tokens, stage.num_heads, stage.head_dim), jnp.bfloat16)

    @jax.jit
    def bias_gradient(dy):
        _, pull = jax.vjp(stage.post, layer, x, attended)
        return pull(dy)[0]["mlp"]["down"]["bias"]

    gradient = bias_gradient(x / np.asarray(3, jnp.bfloat16))
    exact = tokens * float(jnp.bfloat16(1 / 3))
    np.testing.assert_allclose(np.float32(gradient), exact, rtol=2**-9)


def test_equal_stages_share_one_compilation():
    traces = []

    @partial(jax.jit, static_argnames="stage")
    def run(params, tokens, *, stage):
        traces.append(stage)
        return logits(stage, params, tokens, attention="xla_dense")

    for _ in range(2):
        stage = build_stage("llama", **SIZES)
        run(parameters(stage), jnp.zeros((1, 4), jnp.int32), stage=stage)
    assert len(traces) == 1


def test_positions_beyond_the_table_are_nan():
    stage = STAGES["gpt"]
    positions = jnp.array([31, 32])
    first, x = parameters(stage).first, jnp.zeros((1, 2, stage.model_dim))
    out = embed(stage, first, x, positions)
    assert np.isfinite(out[0, 0]).all() and np.isnan(out[0, 1]).all()
