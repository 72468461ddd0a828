"""An axis is followed through primitives: what a program does with it, and what its values show."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.pipeline.checks.flow import Flow, along, axis_size
from seq1f1b_jax.pipeline.checks.follow import follow
from seq1f1b_jax.pipeline.checks.probe import differs

B, T, D = 2, 6, 4
X = jax.ShapeDtypeStruct((B, T, D), jnp.float32)
AT = jax.ShapeDtypeStruct((T,), jnp.int32)
W = np.random.default_rng(1).normal(size=(D, D)).astype(np.float32)
IDS = np.array([[3, 0], [1, 2]])



# id -> function of x, and where the tokens are in its result
APART = {
    "elementwise": (lambda x: jnp.tanh(x) * 2 + jnp.where(x > 0, x, 1), 1),
    "matmul": (lambda x: x @ W, 1),
    "a product by tokens": (lambda x: jnp.einsum("btd,bte->btde", x, x), 1),
    "transposed": (lambda x: x.T, 1),
    "with sequences in one dim": (lambda x: (x.reshape(-1, D) @ W).reshape(B, T, 2, -1), 1),
    "with channels in one dim": (lambda x: x.reshape(B, -1) + 1, 1),
    "a new dim": (lambda x: x[:, None, :, None] * jnp.ones((1, 3, 1, 1, 1)), 2),
    "stacked": (lambda x: jnp.stack([x, x, x], axis=0), 2),
    "unstacked": (lambda x: jnp.stack(jnp.unstack(x, axis=2)[::-1], axis=-1), 1),
    "tiled": (lambda x: jnp.tile(x, (1, 1, 2)), 1),
    "joined by channels": (lambda x: jnp.concatenate([x, jnp.zeros((B, T, 1)), x], axis=-1), 1),
    "half the channels": (lambda x: x[..., : D // 2] * x[..., ::2], 1),
    "padded channels": (lambda x: jnp.pad(x, ((0, 0), (0, 0), (1, 2))), 1),
    "channels reversed": (lambda x: jnp.flip(x, -1), 1),
    "channels rolled": (lambda x: jnp.roll(x, 1, axis=2), 1),
    "channels summed, searched, sorted": (
        lambda x: jnp.cumsum(jnp.sort(x), -1) + x.max(-1, keepdims=True) + x.argmax(-1)[..., None],
        1,
    ),
    "channels by a list": (lambda x: x[..., IDS], 1),
    "channels written": (lambda x: x.at[..., 1].set(0.0).at[..., 2:].add(x[..., :2]), 1),
    "chosen channels": (lambda x: jnp.take_along_axis(x, jnp.argsort(x)[..., :2], axis=-1), 1),
    "looked up": (lambda x: jnp.asarray(W)[jnp.clip(jnp.abs(x[..., 0]).astype(int), 0, D - 1)], 1),
    "a loop over channels": (
        lambda x: jax.lax.scan(lambda s, c: (s + c, s * c), x[..., 0], jnp.moveaxis(x, 2, 0))[1], 2,
    ),
    "a row of a table": (lambda x: x * W[0:1] + jnp.split(jnp.sin(W), D)[0], 1),
    "a row of a table by number": (lambda x: x * jax.lax.dynamic_slice_in_dim(W, 1, 1), 1),
    "a row for each": (lambda x: x.reshape(-1, D) * jnp.tile(W[0], (B * T, 1)), 0),
    "a table by sequences": (
        lambda x: x.reshape(-1, D) * jnp.broadcast_to(W[:B, None, :], X.shape).reshape(-1, D), 0,
    ),
    "true everywhere": (lambda x: jnp.where(np.ones((T, 1), bool), x, 0), 1),
    "ones of bfloat16": (lambda x: x * np.ones((T, 1), jnp.bfloat16), 1),
    "a loop over tokens": (lambda x: jax.lax.map(jnp.sort, x.T.swapaxes(0, 1)).swapaxes(0, 1), 1),
    "a loop over blocks": (
        lambda x: jax.lax.map(lambda r: r @ W, x.reshape(-1, T // 2, D)).reshape(B, T, D), 1,
    ),
    "a loop in a loop": (
        lambda x: jax.lax.map(partial(jax.lax.map, abs), x.reshape(B, 3, 2, D)).reshape(B, T, D), 1,
    ),
    "a loop with a count": (lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y + x * i, x), 1),
    "a branch": (lambda x: jax.lax.cond(W[0, 0] > 0, jnp.sin, jnp.cos, x), 1),
    "calls": (jax.jit(jax.checkpoint(lambda x: jax.nn.gelu(jax.nn.relu(x)))), 1),
    "nothing of it": (lambda x: jnp.zeros_like(x), None),
}  # fmt: skip
# id -> function of x, how its flow breaks
BREAKS = {
    "mean": (lambda x: x - x.mean(1, keepdims=True), "mixes"),
    "attention": (lambda x: jnp.einsum("bqd,bkd->bqk", x, x), "mixes"),
    "contraction": (lambda x: jnp.einsum("btd,bte->bde", x, x), "mixes"),
    "slice": (lambda x: x[:, :-1], "moves"),
    "first": (lambda x: x[:, 0], "moves"),
    "reverse": (lambda x: x[:, ::-1], "moves"),
    "roll": (lambda x: jnp.roll(x, 1, 1), "moves"),
    "pad": (lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 0))), "moves"),
    "running": (lambda x: jax.lax.cummax(x, 1), "mixes"),
    "tokens and sequences": (lambda x: x.reshape(-1, D)[1:], "moves"),
    "a mean over both": (lambda x: x.reshape(-1, D).mean(0), "mixes"),
    "a loop's end": (lambda x: jax.lax.while_loop(lambda y: y.sum() < 9, jnp.exp, x), "mixes"),
    "by index": (lambda x: x * jnp.arange(T)[:, None], "index"),
    "by a table": (lambda x: x + np.arange(T * D).reshape(T, D), "index"),
    "by random numbers": (lambda x: x + jax.random.normal(jax.random.key(0), (T, 1)), "index"),
    "by a running sum of ones": (lambda x: x * jnp.cumsum(jnp.ones((T, 1)), 0), "index"),
    "a loop with a state": (
        lambda x: jax.lax.scan(lambda s, t: (s + t, s), jnp.zeros(D), x[0])[1], "mixes",
    ),
    "a loop that counts": (
        lambda x: jax.lax.scan(lambda n, t: (n + 1, t * n), 0, x[0])[1], "index",
    ),
    "a loop over tokens and a table": (
        lambda x: jax.lax.map(lambda pair: pair[0] * pair[1], (x[0], jnp.arange(T) + 1.0)), "index",
    ),
    "all pairs in loops": (
        lambda x: jax.lax.map(lambda a: jax.lax.map(lambda b: a * b, x[0]), x[0]), "mixes",
    ),
    "halves swapped": (lambda x: x.reshape(B, 2, -1, D)[:, ::-1].reshape(B, T, D), "moves"),
    "a matmul of pairs": (
        lambda x: jnp.einsum("btpd,pq->btqd", x.reshape(B, -1, 2, D), W[:2, :2]).reshape(B, T, D),
        "mixes",
    ),
    "blocks": (lambda x: jnp.concatenate([x[:, :3], x[:, 3:]], axis=1), "moves"),
    "a window": (
        lambda x: jax.lax.reduce_window(x, 0.0, lambda a, b: a * b, (1, 2, 1), (1,) * 3, "SAME"),
        "unknown",
    ),
    "looked up by index": (
        lambda x: x[np.arange(B)[:, None], np.arange(T), jnp.argmax(x, 2)], "unknown",
    ),
    "sort": (lambda x: jnp.sort(x, axis=1), "unknown"),
    "chosen tokens": (lambda x: jnp.take_along_axis(x, jnp.argsort(x, 1), axis=1), "unknown"),
    "split": (lambda x: x.reshape(B, 2, T // 2, D).sum(1), "mixes"),
    "a host call": (lambda x: jax.pure_callback(lambda a: a, X, x), "unknown"),
}  # fmt: skip


def flow_of(function) -> Flow:
    return follow(jax.make_jaxpr(function)(X), [along(X.shape, 1)])[0]


@pytest.mark.parametrize("function, dim", APART.values(), ids=APART)
def test_tokens_that_stay_apart_are_seen_to(function, dim):
    flow = flow_of(function)
    assert flow.broken is None
    where = [at for at, parts in enumerate(flow.dims) if axis_size(parts) == T]
    assert where == ([] if dim is None else [dim]) and (flow.loops is None) == (dim is None)


@pytest.mark.parametrize("function, how", BREAKS.values(), ids=BREAKS)
def test_tokens_that_meet_are_seen_to(function, how):
    assert flow_of(function).broken.how == how


SHAPED = {name: f for name, (f, dim) in APART.items() if dim == 1 and name != "transposed"}


@pytest.mark.parametrize("name", ["matmul", "chosen channels", "a loop over tokens", "calls"])
def test_values_show_the_same_of_tokens_apart(name):
    assert not differs(lambda weights, at, x: SHAPED[name](x), ({}, AT, X), dim=1)


@pytest.mark.parametrize("name", ["mean", "roll", "running", "by index", "sort", "reverse"])
def test_values_show_the_same_of_tokens_that_meet(name):
    assert differs(lambda weights, at, x: BREAKS[name][0](x), ({}, AT, X), dim=1)
