"""The fused loss against whole logits under autodiff: values, gradients, ignored targets, bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.ops.loss import (
    LossRule,
    cross_entropy_and_grads,
    cross_entropy_reference,
    num_targets,
    token_losses,
)
from tests.compiled import compiled

VOCAB, DIM = 11, 6
PLAIN = LossRule()

CASES = {  # name: (B, T, block_tokens)
    "one block": (2, 8, 64),
    "blocks fit": (2, 8, 4),
    "tail block": (1, 13, 8),
    "blocks across sequences": (3, 7, 5),
    "one token": (1, 1, 4),
    "block of one token": (1, 3, 1),
}
cases = pytest.mark.parametrize("shape", CASES.values(), ids=CASES.keys())


def final(last, y):
    """A norm with two weight leaves."""
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + 1e-6)
    return y * last["scale"] + last["shift"]


def random_inputs(shape, dtype):
    batch, num_tokens, _ = shape
    random = np.random.default_rng(1)
    last = {"scale": 1 + random.standard_normal(DIM) / 4, "shift": random.standard_normal(DIM) / 4}
    table = random.standard_normal((VOCAB, DIM))
    y = random.standard_normal((batch, num_tokens, DIM))
    targets = random.integers(0, VOCAB, (batch, num_tokens), np.int32)
    targets[random.random(targets.shape) < 0.3] = -1
    targets[0, 0] = 4
    last, table, y = jax.tree.map(lambda x: jnp.asarray(x, dtype), (last, table, y))
    return last, table, y, jnp.asarray(targets)


def fused(shape, last, table, y, targets, grads, rule=PLAIN):
    call = jax.jit(
        lambda *x: cross_entropy_and_grads(final, *x, block_tokens=shape[2], rule=rule)
    )
    return call(last, table, y, targets, grads)


def reference(last, table, y, targets, rule=PLAIN):
    def loss(last, table, y):
        return cross_entropy_reference(final, last, table, y, targets, rule)

    call = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    value, (dlast, dtable, dy) = call(last, table, y)
    return value, dy, (dlast, dtable)


def accumulators(last, table, dtype, value=0.0):
    return jax.tree.map(lambda x: jnp.asarray(np.full(x.shape, value), dtype), (last, table))


def assert_close(actual, expected, relative):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        assert a.shape == e.shape
        assert np.abs(a - e).max() <= relative * np.abs(e).max()


def test_reference_is_minus_the_log_probability_of_the_targets(x64):
    last, table, y, targets = random_inputs((2, 5, 0), jnp.float64)
    probability = np.asarray(jax.nn.softmax(final(last, y) @ table.T, axis=-1))
    expected = -sum(
        np.log(probability[i, j, t]) for (i, j), t in np.ndenumerate(np.asarray(targets)) if t >= 0
    )
    value = cross_entropy_reference(final, last, table, y, targets)
    assert float(value) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(
    "rule", [LossRule(softcap=1.5), LossRule(z_loss=0.1), LossRule(0.7, 0.3)], ids=str
)
def test_soft_cap_and_z_loss_are_those_of_whole_logits(rule, x64):
    shape = CASES["tail block"]
    last, table, y, targets = random_inputs(shape, jnp.float64)
    loss, dy, grads = reference(last, table, y, targets, rule)
    zeros = jax.tree.map(jnp.zeros_like, (last, table))
    found = fused(shape, last, table, y, targets, zeros, rule)
    for got, expected in zip(
        jax.tree.leaves(found), jax.tree.leaves((loss, dy, grads)), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-13)
    plain = reference(last, table, y, targets)[0]
    assert abs(float(loss) - float(plain)) > 0.1


@cases
def test_loss_and_every_gradient_float64(shape, x64):
    last, table, y, targets = random_inputs(shape, jnp.float64)
    zeros = accumulators(last, table, jnp.float64)
    actual = fused(shape, last, table, y, targets, zeros)
    assert_close(actual, reference(last, table, y, targets), 1e-13)


@pytest.mark.parametrize("name", ["tail block"])
def test_float32(name):
    shape = CASES[name]
    last, table, y, targets = random_inputs(shape, jnp.float32)
    actual = fused(shape, last, table, y, targets, accumulators(last, table, jnp.float32))
    assert_close(actual, reference(last, table, y, targets), 5e-6)


@pytest.mark.parametrize("name", ["one block", "tail block"])
def test_evaluation_gives_the_same_losses(name, x64):
    shape = CASES[name]
    last, table, y, targets = random_inputs(shape, jnp.float64)
    call = jax.jit(lambda *x: token_losses(final, *x, block_tokens=shape[2]))
    losses = call(last, table, y, targets)
    assert losses.shape == targets.shape
    assert not np.any(np.asarray(losses)[np.asarray(targets) < 0])
    total = cross_entropy_reference(final, last, table, y, targets)
    assert_close(losses.sum(), total, 1e-13)
    first = cross_entropy_reference(final, last, table, y[:, :1], targets[:, :1])
    assert_close(losses[:, 0].sum(), first, 1e-13)


def test_gradients_are_added_to_the_accumulators(x64):
    shape = CASES["tail block"]
    last, table, y, targets = random_inputs(shape, jnp.float64)
    before = accumulators(last, table, jnp.float64, 2.0)
    _, _, after = fused(shape, last, table, y, targets, before)
    added = jax.tree.map(jnp.subtract, after, before)
    assert_close(added, reference(last, table, y, targets)[2], 1e-13)


def test_ignored_targets_carry_neither_loss_nor_gradient():
    shape = CASES["tail block"]
    last, table, y, _ = random_inputs(shape, jnp.float32)
    targets = jnp.full(y.shape[:2], -1, jnp.int32)
    before = accumulators(last, table, jnp.float32, 3.0)
    loss, dy, after = fused(shape, last, table, y, targets, before)
    assert float(loss) == 0
    assert float(jnp.abs(dy).max()) == 0
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), after, before))


def test_bfloat16_keeps_sums_in_float32():
    shape = CASES["tail block"]
    last, table, y, targets = random_inputs(shape, jnp.bfloat16)
    loss, dy, grads = fused(shape, last, table, y, targets, accumulators(last, table, jnp.float32))
    assert (loss.dtype, dy.dtype) == (jnp.float32, jnp.bfloat16)
    assert {x.dtype.name for x in jax.tree.leaves(grads)} == {"float32"}
    exact = reference(*jax.tree.map(lambda x: x.astype(jnp.float32), (last, table, y)), targets)
    assert_close((loss, dy, grads), exact, 2**-5)


def test_large_logits_do_not_overflow():
    last, table, y, targets = random_inputs((1, 6, 4), jnp.float32)
    loss, dy, grads = fused(
        (1, 6, 4), last, 1e4 * table, y, targets, accumulators(last, table, jnp.float32)
    )
    assert float(loss) > 1e3
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves((loss, dy, grads)))


def test_logits_exist_for_one_block_only():
    vocab, dim, block = 512, 8, 32
    table = jax.ShapeDtypeStruct((vocab, dim), jnp.float32)
    temp = []
    for num_tokens in (256, 2048):
        y = jax.ShapeDtypeStruct((1, num_tokens, dim), jnp.float32)
        targets = jax.ShapeDtypeStruct((1, num_tokens), jnp.int32)
        call = jax.jit(
            lambda table, y, targets, grads: cross_entropy_and_grads(
                lambda _, y: y, {}, table, y, targets, ({}, grads), block_tokens=block
            )
        )
        program = compiled(call.lower(table, y, targets, table))
        temp.append(program.memory_analysis().temp_size_in_bytes)
    assert 4 * block * vocab <= temp[0] <= 2.5 * 4 * block * vocab
    assert temp[1] - temp[0] <= 2 * 4 * dim * (2048 - 256)  # no more than y and dy themselves


def test_count_of_targets():
    count = num_targets(jnp.array([[3, -1, 0], [-100, 5, 7]], jnp.int32))
    assert (int(count), count.dtype) == (4, jnp.int32)


def test_block_of_no_tokens_is_refused():
    last, table, y, targets = random_inputs((1, 4, 0), jnp.float32)
    with pytest.raises(ValueError, match="limit=0"):
        token_losses(final, last, table, y, targets, block_tokens=0)
