"""`xla_blockwise`: attention block by block, never O(Tq * S) memory.

Runs the loops of `pairs.py`. A block is sliced token-major out of the arrays and brought head-major
on its own; results are updated in place. The online softmax keeps (out, lse) normalised, so merging
one more block needs no other state; the backward recomputes p from lse (FlashAttention-2,
arXiv 2307.08691, algorithms 1 and 2).

Where sequences hold documents, the pairs that these leave empty are known only when the tokens are:
the needed ones are listed first, and a loop runs as many trips as there are. On GPUs such a loop
reads its trip count back to the host (not measured).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from seq1f1b_jax.ops.attention import heads
from seq1f1b_jax.ops.attention.scoring import PLAIN, Scoring
from seq1f1b_jax.ops.attention.visible import Starts, first_keys, needed, visible
from seq1f1b_jax.ops.pairs import BLOCK_CPU as BLOCK
from seq1f1b_jax.ops.pairs import Pairs, causal_pairs
from seq1f1b_jax.ops.precision import accumulation_dtype

Carry = TypeVar("Carry")


class Attended(NamedTuple):
    """Softmax over the keys merged so far, in the accumulation dtype."""

    out: Float[Array, "B Tq Hq Dv"]
    lse: Float[Array, "B Hq Tq"]


class Scorer(NamedTuple):
    """Scores of a pair of blocks from products of its queries and keys."""

    scoring: Scoring
    offset: int
    num_heads: int
    num_kv_heads: int

    def of(self, products: Float[Array, "B Hkv R K"], head_dim: int, query, key, pairs: Pairs):
        """Scores, and a factor that they still lack: products are scaled after their maximum."""
        scale = self.scoring.scale_of(head_dim)
        if not self.scoring.bends:
            return products, scale
        bias = self._bias(query, key, pairs, products.dtype)
        scores, _ = self.scoring.cap(scale * products)
        return (scores if bias is None else scores + bias), 1.0

    def with_derivative(
        self, products: Float[Array, "B Hkv K R"], head_dim: int, query, key, pairs: Pairs
    ):
        """Scores of transposed products, and their derivative by these."""
        scale = self.scoring.scale_of(head_dim)
        scores, derivative = self.scoring.cap(scale * products)
        bias = self._bias(query, key, pairs, products.dtype)
        scores = scores if bias is None else scores + bias.swapaxes(1, 2)
        return scores, scale if derivative is None else scale * derivative

    def _bias(self, query, key, pairs: Pairs, dtype) -> Float[Array, "Hkv R K"] | None:
        queries = self.offset + query + jnp.arange(pairs.rows)
        distance = queries[:, None] - (key + jnp.arange(pairs.cols))
        return self.scoring.bias(
            distance, num_heads=self.num_heads, num_kv_heads=self.num_kv_heads, dtype=dtype
        )


class AttentionGradients(NamedTuple):
    """Sums over the pairs done so far, in the accumulation dtype."""

    dq: Float[Array, "B Tq Hq D"]
    dk: Float[Array, "B S Hkv D"]
    dv: Float[Array, "B S Hkv Dv"]


def forward(
    q: Float[Array, "B Tq Hq D"],
    k: Float[Array, "B S Hkv D"],
    v: Float[Array, "B S Hkv Dv"],
    offset: int,
    starts: Starts | None = None,
    *,
    block: int = BLOCK,
    scoring: Scoring = PLAIN,
) -> tuple[Float[Array, "B Tq Hq Dv"], Float[Array, "B Hq Tq"]]:
    """Attention of a chunk over its prefix and itself; the contract is in the package's docstring.

    Args:
      q: queries of positions `offset ... offset + Tq - 1`.
      k: keys of positions `0 ... offset + Tq - 1`.
      v: values, like `k`; their heads may have another width.
      offset: tokens before the chunk.
      starts: first position of each query's document, never falling; `None`: one document.
      block: longest block, tokens; the workspace is a few `[B, Hq, block, block]`.
      scoring: how scores are made.

    Returns:
      out in q's dtype, lse in the accumulation dtype.

    Raises:
      ValueError: `offset` negative, or `block` below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> out, lse = forward(jnp.ones((1, 2, 4, 8)), *[jnp.ones((1, 5, 2, 8))] * 2, 3)
      >>> out.shape, lse.shape
      ((1, 2, 4, 8), (1, 4, 2))
    """
    batch, num_tokens, num_heads, _ = q.shape
    dtype = accumulation_dtype(q.dtype)
    state = Attended(
        jnp.zeros((*q.shape[:3], v.shape[3]), dtype),
        jnp.full((batch, num_heads, num_tokens), -jnp.inf, dtype),
    )
    first = first_keys(starts, scoring.window, num_tokens=num_tokens, offset=offset)
    scorer = Scorer(scoring, offset, num_heads, k.shape[2])
    for pairs in causal_pairs(num_tokens, offset, block=block, window=scoring.window):
        chosen = None if starts is None or pairs.causal else needed(first, pairs)
        merge = partial(_merge, inputs=(q, k, v, first), pairs=pairs, scorer=scorer)
        state = _loop(pairs, merge, state, chosen)
    return state.out.astype(q.dtype), state.lse


def backward(
    q: Float[Array, "B Tq Hq D"],
    k: Float[Array, "B S Hkv D"],
    v: Float[Array, "B S Hkv Dv"],
    offset: int,
    out: Float[Array, "B Tq Hq Dv"],
    lse: Float[Array, "B Hq Tq"],
    dout: Float[Array, "B Tq Hq Dv"],
    starts: Starts | None = None,
    *,
    block: int = BLOCK,
    scoring: Scoring = PLAIN,
) -> tuple[Float[Array, "B Tq Hq D"], Float[Array, "B S Hkv D"], Float[Array, "B S Hkv Dv"]]:
    """AttentionGradients of `forward`'s out, given its results and `dout`.

    Args:
      q: as for `forward`, and so k, v, offset, starts, block and scoring.
      k: see `forward`.
      v: see `forward`.
      offset: see `forward`.
      out: from `forward`.
      lse: from `forward`.
      dout: gradient of out, q's dtype.
      starts: see `forward`.
      block: see `forward`; need not be the forward's.
      scoring: see `forward`.

    Returns:
      dq in q's dtype, dk and dv in the accumulation dtype.

    Raises:
      ValueError: `offset` negative, or `block` below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> q, k = jnp.ones((1, 2, 4, 8)), jnp.ones((1, 5, 2, 8))
      >>> dq, dk, dv = backward(q, k, k, 3, *forward(q, k, k, 3), q)
      >>> dq.shape, dk.shape, dv.shape
      ((1, 2, 4, 8), (1, 5, 2, 8), (1, 5, 2, 8))
    """
    dtype = accumulation_dtype(q.dtype)
    delta = jnp.einsum("bthd,bthd->bht", out, dout, preferred_element_type=dtype)
    grads = AttentionGradients(*(jnp.zeros(x.shape, dtype) for x in (q, k, v)))
    first = first_keys(starts, scoring.window, num_tokens=q.shape[1], offset=offset)
    inputs = (q, k, v, dout, lse, delta, first)
    scorer = Scorer(scoring, offset, q.shape[2], k.shape[2])
    for pairs in causal_pairs(q.shape[1], offset, block=block, window=scoring.window):
        chosen = None if starts is None or pairs.causal else needed(first, pairs)
        add = partial(_add_pair, inputs=inputs, pairs=pairs, scorer=scorer)
        grads = _loop(pairs, add, grads, chosen)
    return grads.dq.astype(q.dtype), grads.dk, grads.dv


def _loop(
    pairs: Pairs, body: Callable[..., Carry], carry: Carry, chosen: Array | None = None
) -> Carry:
    """`body(carry, query, key)` for all starts, or for the chosen ones, in their order.

    A single pair is sliced statically.
    """
    if chosen is not None:
        indices = jnp.flatnonzero(chosen, size=len(pairs.starts), fill_value=0)
        starts = jnp.asarray(pairs.starts)[indices]
        return lax.fori_loop(0, chosen.sum(), lambda n, carry: body(carry, *starts[n]), carry)
    if len(pairs.starts) == 1:
        query, key = pairs.starts[0].tolist()
        return body(carry, query, key)
    return lax.scan(lambda carry, start: (body(carry, *start), None), carry, pairs.starts)[0]


def _merge(
    state: Attended, query, key, *, inputs, pairs: Pairs, scorer: Scorer
) -> Attended:
    """Merge one block of keys into the softmax of one block of queries."""
    q, k, v, first = inputs
    kv_heads = k.shape[2]
    k, v = (heads.head_major(_take(x, key, pairs.cols)) for x in (k, v))
    out = heads.to_rows(_take(state.out, query, pairs.rows), kv_heads)
    lse = heads.row_values(_take(state.lse, query, pairs.rows, dim=2), kv_heads)[..., None]
    q = heads.to_rows(_take(q, query, pairs.rows), kv_heads)
    scores, scale = scorer.of(_matmul("bhrd,bhkd->bhrk", q, k), q.shape[-1], query, key, pairs)
    mask = _mask(first, pairs, query, key, scores.shape[2])
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    highest = jnp.maximum(lse, scale * scores.max(-1, keepdims=True))
    weights = jnp.exp(scale * scores - highest)
    kept = jnp.exp(lse - highest)
    total = kept + weights.sum(-1, keepdims=True)
    added = _matmul("bhrk,bhkd->bhrd", weights.astype(v.dtype), v)
    out = heads.from_rows((kept * out + added) / total, pairs.rows)
    lse = heads.query_values((highest + jnp.log(total))[..., 0], pairs.rows)
    return Attended(_put(state.out, out, query), _put(state.lse, lse, query, dim=2))


def _add_pair(
    grads: AttentionGradients, query, key, *, inputs, pairs: Pairs, scorer: Scorer
) -> AttentionGradients:
    """Add what one pair of blocks contributes to dq, dk and dv.

    Scores are transposed, `[keys, rows]`, and dq is made feature by row: then no matmul reduces
    over the first dim of its left operand, which costs a factor of three on CPU.
    """
    q, k, v, dout, lse, delta, first = inputs
    kv_heads = k.shape[2]
    q, dout = (heads.to_rows(_take(x, query, pairs.rows), kv_heads) for x in (q, dout))
    k, v = (_take(x, key, pairs.cols) for x in (k, v))
    lse, delta = (
        heads.row_values(_take(x, query, pairs.rows, dim=2), kv_heads)[:, :, None]
        for x in (lse, delta)
    )
    products = _matmul("bhkd,bhrd->bhkr", heads.head_major(k), q)
    scores, derivative = scorer.with_derivative(products, q.shape[-1], query, key, pairs)
    weights = jnp.exp(scores - lse)
    mask = _mask(first, pairs, query, key, scores.shape[3])
    if mask is not None:
        weights = jnp.where(mask.swapaxes(2, 3), weights, 0)
    dweights = _matmul("bhkd,bhrd->bhkr", heads.head_major(v), dout)
    dscores = (weights * (dweights - delta) * derivative).astype(q.dtype)
    dv = _matmul("bhkr,bhrd->bhkd", weights.astype(q.dtype), dout)
    dk = _matmul("bhkr,bhrd->bhkd", dscores, q)
    dq = _matmul("bhdk,bhkr->bhdr", heads.feature_major(k), dscores)
    return AttentionGradients(
        _add(grads.dq, heads.from_columns(dq, pairs.rows), query),
        _add(grads.dk, heads.token_major(dk), key),
        _add(grads.dv, heads.token_major(dv), key),
    )


def _matmul(pattern: str, a: Array, b: Array) -> Array:
    return jnp.einsum(pattern, a, b, preferred_element_type=accumulation_dtype(a.dtype))


def _mask(first, pairs: Pairs, query, key, num_rows: int) -> Array | None:
    """Visible scores of a pair, `[B, 1, rows, keys]`."""
    near = None if first is None else _take(jnp.asarray(first), query, pairs.rows)
    return visible(near, pairs, key, num_rows=num_rows)


def _take(x: Array, start, size: int, *, dim: int = 1) -> Array:
    return lax.dynamic_slice_in_dim(x, start, size, axis=dim)


def _put(x: Array, update: Array, start, *, dim: int = 1) -> Array:
    return lax.dynamic_update_slice_in_dim(x, update, start, axis=dim)


def _add(x: Array, delta: Array, start, *, dim: int = 1) -> Array:
    return _put(x, _take(x, start, delta.shape[dim], dim=dim) + delta, start, dim=dim)
