"""The parts of a layer against the library's own: values, gradients, and what their vjp keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seq1f1b_jax.models.blocks import GATED, gelu
from seq1f1b_jax.models.norm import LayerNorm, RMSNorm
from seq1f1b_jax.models.rope import rotary_tables, rotate

NORMS = {"layer": (LayerNorm, nnx.LayerNorm), "rms": (RMSNorm, nnx.RMSNorm)}


def random(*shape, seed=0, dtype=jnp.float64):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(dtype))


def value_and_grads(function, weights, *args):
    """`sum(weights * function(*args))` and its gradient with respect to every argument."""
    total = lambda args: jnp.sum(weights * function(*args))  # noqa: E731
    return jax.jit(jax.value_and_grad(total))(args)


def assert_close(actual, expected, tolerance):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("name", NORMS)
def test_norm_is_the_librarys_with_its_gradients(name):
    ours, library = NORMS[name]
    with jax.enable_x64(True):
        module = ours(16, epsilon=1e-5, rngs=nnx.Rngs(0))
        graph, state = nnx.split(module)
        parameters = jax.tree.map(lambda a: a + random(*a.shape, seed=1), nnx.to_pure_dict(state))
        x, weights = random(2, 5, 16), random(2, 5, 16, seed=2)

        def run(call):
            norm = lambda p, x: call(nnx.merge(graph, p), x)  # noqa: E731
            return value_and_grads(norm, weights, parameters, x)

        # 1e-11: the library takes the variance as a difference of two moments.
        assert_close(run(ours.__call__), run(library.__call__), 1e-11)


@pytest.mark.parametrize("name", NORMS)
def test_bfloat16_norm_has_float32_statistics(name):
    module = NORMS[name][0](256, epsilon=1e-5, rngs=nnx.Rngs(0))
    x = random(1, 8, 256, dtype=jnp.bfloat16) + jnp.bfloat16(3)
    exact = module(x.astype(jnp.float32))
    rounded = module(x)
    assert rounded.dtype == jnp.bfloat16
    # One rounding of the result to 8 bits; bfloat16 statistics would be off by several.
    np.testing.assert_allclose(np.float32(rounded), exact, rtol=2**-8, atol=1e-6)


ACTIVATIONS = {
    "gelu": (gelu, lambda h: jax.nn.gelu(h, approximate=True), 1),
    "gated by silu": (GATED["silu"], lambda gate, up: jax.nn.silu(gate) * up, 2),
    "gated by gelu": (
        GATED["gelu"], lambda gate, up: jax.nn.gelu(gate, approximate=True) * up, 2
    ),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_keeps_its_inputs_only(name):
    ours, library, num_inputs = ACTIVATIONS[name]
    with jax.enable_x64(True):
        inputs = tuple(random(2, 3, 8, seed=seed) for seed in range(num_inputs))
        weights = random(2, 3, 8, seed=9)
        expected = value_and_grads(library, weights, *inputs)
        assert_close(value_and_grads(ours, weights, *inputs), expected, 1e-14)

        def kept(*inputs):
            leaves = jax.tree.leaves(jax.vjp(ours, *inputs)[1])
            assert len(leaves) == num_inputs
            assert all(any(leaf is x for x in inputs) for leaf in leaves)
            return 0

        jax.jit(kept)(*inputs)


def test_rotary_product_depends_on_the_distance_only():
    with jax.enable_x64(True):
        q, k = random(1, 1, 1, 16), random(1, 1, 1, 16, seed=1)

        def product(query_position, key_position):
            def turned(x, position):
                tables = rotary_tables(jnp.array([position]), head_dim=16, theta=10_000.0)
                return rotate(x, *tables)

            return jnp.vdot(turned(q, query_position), turned(k, key_position))

        for distance in (0, 1, 37):
            np.testing.assert_allclose(
                product(distance, 0), product(distance + 4711, 4711), rtol=1e-10
            )
        assert abs(product(1, 0) - product(2, 0)) > 1e-3


def test_rotary_is_multiplication_by_a_complex_number():
    with jax.enable_x64(True):
        x = random(2, 5, 3, 8)
        positions = np.array([0, 1, 7, 100, 65_535])
        turned = rotate(x, *rotary_tables(jnp.asarray(positions), head_dim=8, theta=500.0))
        angle = positions[:, None] * 500.0 ** (-np.arange(4) / 4)
        pairs = (np.asarray(x[..., :4]) + 1j * np.asarray(x[..., 4:])) * np.exp(1j * angle)[:, None]
        np.testing.assert_allclose(turned[..., :4], pairs.real, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(turned[..., 4:], pairs.imag, rtol=1e-9, atol=1e-9)


def test_rotary_gradient_is_the_transpose():
    with jax.enable_x64(True):
        x, dy = random(2, 5, 3, 8), random(2, 5, 3, 8, seed=1)
        tables = rotary_tables(jnp.arange(5), head_dim=8, theta=10_000.0)
        _, pull = jax.vjp(lambda x: rotate(x, *tables), x)
        # A linear function equals its own derivative, so its transpose is what jax derives here.
        transpose = jax.linear_transpose(lambda x: rotate.__wrapped__(x, *tables), x)
        np.testing.assert_allclose(pull(dy)[0], transpose(dy)[0], rtol=1e-14, atol=1e-14)
        np.testing.assert_allclose(pull(rotate(x, *tables))[0], x, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("position", [1, 4095, 131_071, 1_000_000])
def test_float32_angles_are_good_at_a_million_tokens(position):
    cos, sin = rotary_tables(jnp.array([position]), head_dim=64, theta=10_000.0)
    assert cos.dtype == sin.dtype == jnp.float32
    angle = position * 10_000.0 ** (-np.arange(32) / 32)
    # 2**-33 turns per token is the rounding of a frequency; 1e-6 that of cosine and sine.
    tolerance = position * 2 * np.pi * 2**-33 + 1e-6
    np.testing.assert_allclose(cos[0], np.cos(angle), rtol=0, atol=tolerance)
    np.testing.assert_allclose(sin[0], np.sin(angle), rtol=0, atol=tolerance)


def test_rotate_computes_wide_and_returns_the_inputs_dtype():
    x = random(1, 4, 2, 8, dtype=jnp.bfloat16)
    tables = rotary_tables(jnp.arange(4) + 1000, head_dim=8, theta=10_000.0)
    wide = rotate(x.astype(jnp.float32), *tables)
    turned = rotate(x, *tables)
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_array_equal(turned, wide.astype(jnp.bfloat16))
