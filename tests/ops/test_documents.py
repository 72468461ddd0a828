"""Documents and windows: every backend against textbook attention, and blocks that are skipped."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq1f1b_jax.inference import naive_attention
from seq1f1b_jax.ops.attention import Scoring, blockwise, dense
from seq1f1b_jax.ops.attention.blockwise import backward, forward
from seq1f1b_jax.ops.attention.visible import first_keys, needed
from seq1f1b_jax.ops.pairs import causal_pairs

BATCH, LENGTH, HEADS, KV_HEADS, DIM = 2, 29, 4, 2, 4
NAMES = ("out", "dq", "dk", "dv")


def inputs(dtype=np.float64):
    draw = np.random.default_rng(0).standard_normal
    queries, keys = (BATCH, LENGTH, HEADS, DIM), (BATCH, LENGTH, KV_HEADS, DIM)
    return tuple(jnp.asarray(draw(shape), dtype) for shape in (queries, keys, keys, queries))


def starts_at(*borders) -> np.ndarray:
    """Starts `[BATCH, LENGTH]` of documents that begin at the borders, other ones per sequence."""
    begins = np.zeros((BATCH, LENGTH), int)
    for row, places in enumerate(borders):
        begins[row, list(places)] = list(places)
    return np.maximum.accumulate(begins, axis=-1).astype(np.int32)


@partial(jax.jit, static_argnames=("window",))
def textbook(q, k, v, dout, starts, *, window):
    attend = partial(naive_attention, starts=starts, scoring=Scoring(window))
    out, pull = jax.vjp(attend, q, k, v)
    return out, *pull(dout)


@partial(jax.jit, static_argnames=("name", "block", "window", "offset"))
def ours(q, k, v, dout, starts, *, name, block, window, offset):
    """The chunk that begins at `offset`, and the prefix before it in another chunk."""
    options = {"scoring": Scoring(window)} | ({"block": block} if name == "xla_blockwise" else {})
    module = {"xla_dense": dense, "xla_blockwise": blockwise}[name]
    run, back = (partial(f, **options) for f in (module.forward, module.backward))
    outs, dqs, dk, dv = [], [], jnp.zeros_like(k), jnp.zeros_like(v)
    for begin, end in ((0, offset), (offset, LENGTH)):
        own = None if starts is None else starts[:, begin:end]
        part = (q[:, begin:end], k[:, :end], v[:, :end], begin)
        out, lse = run(*part, own)
        dq, dk_part, dv_part = back(*part, out, lse, dout[:, begin:end], own)
        outs.append(out)
        dqs.append(dq)
        dk, dv = dk.at[:, :end].add(dk_part), dv.at[:, :end].add(dv_part)
    return jnp.concatenate(outs, 1), jnp.concatenate(dqs, 1), dk, dv


def assert_as_textbook(starts, *, name, window, block=4, offset=13):
    values = inputs()
    actual = ours(*values, starts, name=name, block=block, window=window, offset=offset)
    expected = textbook(*values, starts, window=window)
    for result, a, e in zip(NAMES, actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=1e-12, err_msg=result)


@pytest.mark.parametrize("window", [None, 1, 3, 9, 29, 100])
@pytest.mark.parametrize("name", ["xla_dense", "xla_blockwise"])
def test_window(name, window, x64):
    assert_as_textbook(None, name=name, window=window)


@pytest.mark.parametrize("name", ["xla_dense", "xla_blockwise"])
def test_window_and_documents(name, x64):
    assert_as_textbook(starts_at((5, 6, 20), (13,)), name=name, window=4)


borders = st.sets(st.integers(1, LENGTH - 1), max_size=8)


@settings(max_examples=40, deadline=None)
@given(first=borders, second=borders)
def test_documents_anywhere(first, second):
    with jax.enable_x64(True):
        assert_as_textbook(starts_at(first, second), name="xla_blockwise", window=None)


@settings(max_examples=10, deadline=None)
@given(first=borders, second=borders)
def test_documents_anywhere_dense(first, second):
    with jax.enable_x64(True):
        assert_as_textbook(starts_at(first, second), name="xla_dense", window=None)


def test_blocks_before_all_documents_are_not_computed():
    """NaN in the keys of an earlier document would reach every result that computed with it."""
    q, k, v, dout = inputs(np.float32)
    starts = starts_at((16,), (16,))[:, 16:]
    hidden = jnp.arange(LENGTH)[:, None, None] < 16
    k, v = jnp.where(hidden, jnp.nan, k), jnp.where(hidden, jnp.nan, v)
    chunk = (q[:, 16:], k, v, 16)
    out, lse = jax.jit(partial(forward, block=4), static_argnums=3)(*chunk, starts)
    saved = (out, lse, dout[:, 16:], starts)
    grads = jax.jit(partial(backward, block=4), static_argnums=3)(*chunk, *saved)
    assert all(np.isfinite(x).all() for x in (out, lse, *grads))
    assert not np.any(np.asarray(grads[1])[:, :16]) and np.any(np.asarray(grads[1])[:, 16:])


def test_window_leaves_out_pairs_when_the_program_is_built():
    for window in (None, 1, 8, 17, 64):
        pairs = causal_pairs(64, 64, block=16, window=window)
        counted = sum(len(kind.starts) for kind in pairs)
        query, key = np.mgrid[0:4, 0:8]
        behind = (64 + 16 * query) - (16 * key + 15)  # of the nearest pair of tokens
        visible = (key <= query + 4) & (behind < (window or 1000))
        assert counted == visible.sum()


def test_needed_pairs_are_those_with_a_visible_score():
    starts = starts_at((3, 11, 12), (9, 25))
    kinds = causal_pairs(LENGTH, 0, block=4)
    for kind in kinds:
        chosen = np.asarray(needed(jnp.asarray(starts), kind))
        for use, (query, key) in zip(chosen, kind.starts, strict=True):
            rows = starts[:, query : query + kind.rows, None]
            keys = np.arange(key, key + kind.cols)
            assert use == np.any(keys >= rows)


def test_first_keys_are_the_nearer_of_document_and_window():
    starts = starts_at((4,), (20,))
    first = np.asarray(first_keys(jnp.asarray(starts), 3, num_tokens=LENGTH, offset=0))
    assert first[0, :8].tolist() == [0, 0, 0, 1, 4, 4, 4, 5]
    assert first_keys(None, LENGTH, num_tokens=LENGTH, offset=0) is None


def test_window_of_no_keys_is_refused():
    with pytest.raises(ValueError, match="window=0"):
        causal_pairs(8, 0, block=4, window=0)
