"""Experts in sorted blocks equal all experts for every token, whatever a router chooses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.ops.experts import Kernels, expert_mlp
from seq1f1b_jax.ops.router import route

SHAPES = {
    "few": (2, 13, 5, 3), "one each": (1, 9, 4, 1), "all": (2, 7, 3, 3), "one expert": (1, 6, 1, 1),
    "more experts than pairs": (1, 2, 11, 2), "several blocks": (1, 300, 2, 1),
}  # fmt: skip
"""Sequences, tokens, experts, and how many a token has."""
DIM, WIDTH = 5, 6


def activation(gate, up):
    return jax.nn.silu(gate) * up


def draw(num_experts, seed=0):
    rng = np.random.default_rng(seed)
    into, out = (num_experts, DIM, WIDTH), (num_experts, WIDTH, DIM)
    return Kernels(*(jnp.asarray(rng.normal(size=shape)) for shape in (into, into, out)))


def all_experts(h, weights, experts, kernels):
    """The slow obvious twin."""
    chosen = jax.nn.one_hot(experts, len(kernels.gate), dtype=h.dtype) * weights[..., None]
    gate, up = (jnp.einsum("btd,edf->btef", h, kernel) for kernel in kernels[:2])
    return jnp.einsum("bte,btef,efd->btd", chosen.sum(2), activation(gate, up), kernels.down)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("crowded", [False, True], ids=["spread", "crowded"])
def test_experts_equal_their_twin(x64, shape, crowded):
    num_sequences, length, num_experts, num_chosen = shape
    rng = np.random.default_rng(1)
    h = jnp.asarray(rng.normal(size=(num_sequences, length, DIM)))
    scores = rng.normal(size=(num_sequences, length, num_experts))
    scores += 100 * np.arange(num_experts) * crowded  # all tokens choose the same ones
    experts = jnp.asarray(np.argsort(-scores)[..., :num_chosen], jnp.int32)
    weights = jnp.asarray(rng.random(experts.shape))
    inputs = h, weights, draw(num_experts)
    cotangent = jnp.asarray(rng.normal(size=h.shape))

    def ours(h, weights, kernels):
        return expert_mlp(h, weights, experts, kernels, activation=activation)

    found, vjp = jax.vjp(jax.jit(ours), *inputs)
    expected, twin = jax.vjp(lambda h, w, k: all_experts(h, w, experts, k), *inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(jax.tree.leaves(vjp(cotangent)), jax.tree.leaves(twin(cotangent)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("normalize", [False, True])
def test_routing_and_its_gradients(x64, normalize):
    rng = np.random.default_rng(2)
    inputs = [jnp.asarray(rng.normal(size=shape)) for shape in ((2, 8, DIM), (DIM, 6))]

    def plain(h, kernel):
        logits = h @ kernel
        probability = jax.nn.softmax(logits)
        weights, experts = jax.lax.top_k(probability, 3)
        weights = weights / weights.sum(-1, keepdims=True) if normalize else weights
        return weights, probability.sum(1), (jax.nn.logsumexp(logits, axis=-1) ** 2).sum(1), experts

    def ours(h, kernel):
        weights, experts, sums = route(h, kernel, 3, normalize)
        return weights, sums.probability, sums.z, experts

    for a, b in zip(ours(*inputs), plain(*inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    load = np.bincount(np.asarray(plain(*inputs)[-1][0]).ravel(), minlength=6)
    np.testing.assert_array_equal(route(*inputs, 3, normalize)[2].load[0], load)

    def total(function, h, kernel):
        values = function(h, kernel)[:3]
        return sum((n + 1) * jnp.sin(value).sum() for n, value in enumerate(values))

    grads, expected = (jax.grad(total, (1, 2))(function, *inputs) for function in (ours, plain))
    for a, b in zip(grads, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11)


def test_a_token_alone_is_a_token_among_others(x64):
    rng = np.random.default_rng(3)
    h, kernel = jnp.asarray(rng.normal(size=(2, 12, DIM))), jnp.asarray(rng.normal(size=(DIM, 4)))
    kernels = draw(4)

    def of(h):
        weights, experts, _ = route(h, kernel, 2, True)
        return expert_mlp(h, weights, experts, kernels, activation=activation)

    alone = jnp.concatenate([of(h[:, at : at + 1]) for at in range(12)], axis=1)
    np.testing.assert_allclose(of(h), alone, rtol=1e-12, atol=1e-12)


def test_nothing_is_as_wide_as_the_model_for_every_pair():
    """Residuals of k times the tokens are as wide as an expert, never as the model."""
    tokens, chosen = 40, 3
    shapes = [(1, tokens, DIM), (1, tokens, chosen), (1, tokens, chosen)]
    h, weights, experts = (
        jax.ShapeDtypeStruct(s, d) for s, d in zip(shapes, ("f4", "f4", "i4"), strict=True)
    )
    kernels = jax.tree.map(lambda k: jax.ShapeDtypeStruct(k.shape, "f4"), draw(4))

    def run(h, weights, experts, kernels):
        return jax.vjp(
            lambda h, w, k: expert_mlp(h, w, experts, k, activation=activation), h, weights, kernels
        )[1]

    kept = jax.eval_shape(run, h, weights, experts, kernels)
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(kept))
    assert max(sizes) == tokens * chosen * WIDTH
    assert sizes.count(tokens * chosen * WIDTH) == 2 and tokens * chosen * DIM not in sizes
