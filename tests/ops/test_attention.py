"""Every backend against the dense oracle, and the oracle against autodiff of textbook attention."""

import itertools
import math
import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.ops.attention import (
    BACKENDS,
    Prefix,
    blockwise,
    get_backend,
)
from seq1f1b_jax.ops.attention.contract import joined
from seq1f1b_jax.ops.pairs import BLOCK_ACCELERATOR, BLOCK_CPU
from tests.compiled import compiled as as_users

ORACLE = get_backend("xla_dense")
RESULTS = ("out", "lse", "dq", "dk", "dv")

CASES = {  # name: (B, Tq, offset, Hq, Hkv, D)
    "one token": (1, 1, 0, 2, 2, 4),
    "whole sequence": (2, 32, 0, 2, 2, 8),
    "aligned prefix": (1, 32, 64, 2, 2, 8),
    "grouped heads": (2, 32, 16, 6, 2, 8),
    "one kv head": (1, 24, 8, 4, 1, 5),
    "odd length": (1, 37, 0, 4, 2, 8),
    "odd offset": (2, 32, 21, 2, 2, 8),
    "odd length and offset": (1, 29, 35, 4, 2, 8),
    "long prefix": (1, 16, 501, 2, 1, 8),
    "one token, long prefix": (1, 1, 77, 4, 2, 8),
}


@cache
def with_block(block):
    return joined(
        f"xla_blockwise/{block}",
        partial(blockwise.forward, block=block), partial(blockwise.backward, block=block),
    )


CHECKED = [with_block(16), get_backend("xla_blockwise")]
BACKEND_CASES = [
    pytest.param(backend, CASES[name], id=f"{backend.name}-{name}")
    for backend, names in zip(CHECKED, (CASES, ("whole sequence", "long prefix")), strict=True)
    for name in names
]
cases = pytest.mark.parametrize("shape", CASES.values(), ids=CASES.keys())
backends = pytest.mark.parametrize("backend", CHECKED, ids=lambda b: b.name)


def random_inputs(shape, dtype, spread=1.0):
    """q, k, v, dout; drawn by NumPy, which compiles nothing."""
    batch, num_tokens, offset, heads, kv_heads, dim = shape
    draw = np.random.default_rng(0).standard_normal
    queries, cache = (batch, num_tokens, heads, dim), (batch, offset + num_tokens, kv_heads, dim)
    values = spread * draw(queries), draw(cache), draw(cache), draw(queries)
    return tuple(jnp.asarray(value, dtype) for value in values)


def cut_at(offset, k, v):
    """Keys and values of a chunk, and the prefix before it."""
    prefix = Prefix(k[:, :offset], v[:, :offset]) if offset else None
    return k[:, offset:], v[:, offset:], prefix


def whole(grads):
    """(dq, dk, dv) over prefix and chunk."""
    if grads.prefix is None:
        return grads[:3]
    pairs = zip(grads.prefix, (grads.dk, grads.dv), strict=True)
    return grads.dq, *(jnp.concatenate(pair, axis=1) for pair in pairs)


def run(backend, shape, q, k, v, dout):
    """All five results, by name."""

    @jax.jit
    def both(q, k, v, dout):
        own = cut_at(shape[2], k, v)
        out, lse = backend.forward(q, *own)
        return out, lse, *whole(backend.backward(q, *own, out, lse, dout))

    return dict(zip(RESULTS, both(q, k, v, dout), strict=True))


@cache
def exact(shape, dtype):
    """The oracle in float64 on the numbers that `dtype` inputs hold; needs 64-bit types enabled."""
    inputs = random_inputs(shape, dtype)
    return run(ORACLE, shape, *(x.astype(jnp.float64) for x in inputs))


def textbook(q, k, v, offset):
    """Softmax attention by definition, keys and values repeated over the query groups."""
    groups = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, groups, axis=2), jnp.repeat(v, groups, axis=2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    visible = jnp.tril(jnp.ones((q.shape[1], k.shape[1]), bool), offset)
    scores = jnp.where(visible, scores, -jnp.inf)
    lse = jax.nn.logsumexp(scores, axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), v), lse


def run_textbook(shape, q, k, v, dout):
    @jax.jit
    def both(q, k, v, dout):
        (out, lse), pull = jax.vjp(lambda *x: textbook(*x, shape[2]), q, k, v)
        return out, lse, *pull((dout, jnp.zeros_like(lse)))

    return dict(zip(RESULTS, both(q, k, v, dout), strict=True))


def assert_close(actual, expected, relative):
    """max|difference| / max|expected| for every result."""
    for name in RESULTS:
        a, e = (np.asarray(x[name], np.float64) for x in (actual, expected))
        assert a.shape == e.shape, name
        error = np.abs(a - e).max() / max(np.abs(e).max(), 1e-300)
        # one visible key: the gradients by q and k are zero up to rounding of terms of order one
        assert error <= relative or np.abs(a - e).max() <= relative, (name, error)


@cases
def test_oracle_is_textbook_attention_under_autodiff(shape, x64):
    expected = run_textbook(shape, *random_inputs(shape, jnp.float64))
    assert_close(exact(shape, "float64"), expected, 1e-13)


@pytest.mark.parametrize("backend, shape", BACKEND_CASES)
def test_backend_equals_oracle_float64(backend, shape, x64):
    inputs = random_inputs(shape, jnp.float64)
    actual = run(backend, shape, *inputs)
    assert {x.dtype.name for x in actual.values()} == {"float64"}
    assert_close(actual, exact(shape, "float64"), 1e-13)


@pytest.mark.parametrize("name", ["odd length and offset", "long prefix"])
@pytest.mark.parametrize("backend", [ORACLE, *CHECKED], ids=lambda b: b.name)
def test_float32_within_rounding_of_float64(backend, name, x64):
    shape = CASES[name]
    inputs = random_inputs(shape, jnp.float32)
    actual = run(backend, shape, *inputs)
    assert {x.dtype.name for x in actual.values()} == {"float32"}
    assert_close(actual, exact(shape, "float32"), 2e-6)


@pytest.mark.parametrize("backend", [ORACLE, *CHECKED], ids=lambda b: b.name)
def test_bfloat16_inputs_are_summed_in_float32(backend, x64):
    shape = CASES["odd length and offset"]
    inputs = random_inputs(shape, jnp.bfloat16)
    actual = run(backend, shape, *inputs)
    dtypes = {name: x.dtype.name for name, x in actual.items()}
    assert dtypes == dict(
        out="bfloat16", lse="float32", dq="bfloat16", dk="float32", dv="float32"
    )
    expected = exact(shape, "bfloat16")
    assert_close(actual, expected, 2**-6)
    # no rounding of the scores themselves: products of bfloat16 are exact in float32
    np.testing.assert_allclose(actual["lse"], expected["lse"], rtol=1e-6)


def test_large_scores_neither_overflow_nor_lose_the_gradient(x64):
    shape = CASES["odd length and offset"]
    inputs = random_inputs(shape, jnp.float64, spread=300.0)
    actual = run(with_block(16), shape, *inputs)
    assert float(jnp.abs(actual["lse"]).max()) > 500  # exp would overflow without the maximum
    assert_close(actual, run_textbook(shape, *inputs), 1e-11)


def test_chunks_in_turn_equal_the_whole_sequence(x64):
    """Prefix gradients summed over chunks, as the executor does it, against one call."""
    shape = (1, 45, 0, 4, 2, 8)
    q, k, v, dout = random_inputs(shape, jnp.float64)
    whole = run(ORACLE, shape, q, k, v, dout)
    backend, dk, dv, ends = with_block(8), np.zeros(k.shape), np.zeros(v.shape), [0, 16, 45]
    for start, end in itertools.pairwise(ends):
        prefix = (q[:, start:end], k[:, :end], v[:, :end], dout[:, start:end])
        part = run(backend, (1, end - start, start, 4, 2, 8), *prefix)
        dk[:, :end] += part["dk"]
        dv[:, :end] += part["dv"]
        for name in ("out", "dq"):
            np.testing.assert_allclose(part[name], whole[name][:, start:end], rtol=0, atol=1e-13)
    np.testing.assert_allclose(dk, whole["dk"], rtol=0, atol=1e-13)
    np.testing.assert_allclose(dv, whole["dv"], rtol=0, atol=1e-13)


@cache
def compiled(backend, num_tokens, offset):
    """Compiled (forward, backward) for float32, one head."""
    queries = jax.ShapeDtypeStruct((1, num_tokens, 1, 8), jnp.float32)
    cache = jax.ShapeDtypeStruct((1, offset + num_tokens, 1, 8), jnp.float32)
    lse = jax.ShapeDtypeStruct((1, 1, num_tokens), jnp.float32)
    forward = jax.jit(lambda q, k, v: backend.forward.args[0](q, k, v, offset))
    backward = jax.jit(lambda q, k, v, *saved: backend.backward.args[0](q, k, v, offset, *saved))
    return (
        as_users(forward.lower(queries, cache, cache)),
        as_users(backward.lower(queries, cache, cache, queries, lse, queries)),
    )


def temp_bytes(programs):
    return [program.memory_analysis().temp_size_in_bytes for program in programs]


def test_blockwise_workspace_does_not_grow_with_the_scores():
    small, large = ((256, 256), (1024, 3072))  # 32 times the scores
    blocks = [temp_bytes(compiled(with_block(64), *size)) for size in (small, large)]
    dense = [temp_bytes(compiled(ORACLE, *size)) for size in (small, large)]
    for before, after in zip(*dense, strict=True):
        assert after > 20 * before  # the measure sees score matrices
    for before, after in zip(*blocks, strict=True):
        assert after - before <= 8 * 4 * (large[0] - small[0]) + 4096  # a few numbers per query
        assert after < 8 * 64 * 64 * 4


def test_blockwise_loops_have_known_trip_counts_and_the_program_does_not_grow():
    sizes = [(256, 256), (1024, 3072)]
    texts = [[p.as_text() for p in compiled(with_block(64), *size)] for size in sizes]
    for text in (text for pair in texts for text in pair):
        loops = re.findall(r"\bwhile\(.*", text)
        assert len(loops) == 2
        assert all("known_trip_count" in loop for loop in loops)
    for before, after in zip(*texts, strict=True):
        assert before.count(" dot(") == after.count(" dot(") > 0


def test_every_name_resolves_and_blocks_follow_the_platform():
    assert [get_backend(name).name for name in BACKENDS] == list(BACKENDS)
    platforms = ("cpu", "gpu")
    blocks = [get_backend("xla_blockwise", platform=platform).block for platform in platforms]
    assert blocks == [BLOCK_CPU, BLOCK_ACCELERATOR] == [256, 1024]
    assert get_backend("xla_blockwise") is get_backend("xla_blockwise", platform="cpu")


def test_unknown_backend_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="attention='flash'.*one of xla_dense, xla_blockwise"):
        get_backend("flash")


def test_negative_offset_is_refused():
    q, k, v, _ = random_inputs((1, 4, 0, 1, 1, 4), jnp.float32)
    with pytest.raises(ValueError, match="offset=-3"):
        blockwise.forward(q, k, v, -3)
