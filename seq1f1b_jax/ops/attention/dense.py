"""`xla_dense`: attention with the whole score matrix, the oracle the other backends are held to.

Memory O(Tq * S). Mathematics as in any textbook: with s = q k^T / sqrt(D) under the causal mask
(and what `Scoring` makes of it, whose derivative then is a factor of ds),

    lse = log sum exp s,   p = exp(s - lse),   out = p v
    dv = p^T dout,   ds = p * (dout v^T - delta),   delta = rowsum(out * dout)
    dq = ds k / sqrt(D),   dk = ds^T q / sqrt(D)
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.attention import heads
from seq1f1b_jax.ops.attention.scoring import PLAIN, Scoring
from seq1f1b_jax.ops.attention.visible import Starts, first_keys, visible
from seq1f1b_jax.ops.pairs import Pairs
from seq1f1b_jax.ops.precision import accumulation_dtype


def forward(
    q: Float[Array, "B Tq Hq D"],
    k: Float[Array, "B S Hkv D"],
    v: Float[Array, "B S Hkv Dv"],
    offset: int,
    starts: Starts | None = None,
    *,
    scoring: Scoring = PLAIN,
) -> tuple[Float[Array, "B Tq Hq Dv"], Float[Array, "B Hq Tq"]]:
    """Attention of a chunk over its prefix and itself; the contract is in the package's docstring.

    Args:
      q: queries of positions `offset ... offset + Tq - 1`.
      k: keys of positions `0 ... offset + Tq - 1`.
      v: values, like `k`; their heads may have another width.
      offset: tokens before the chunk.
      starts: first position of each query's document; `None`: one document.
      scoring: how scores are made.

    Returns:
      out in q's dtype, lse in the accumulation dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> out, lse = forward(jnp.ones((1, 2, 4, 8)), *[jnp.ones((1, 5, 2, 8))] * 2, 3)
      >>> out.shape, lse.shape
      ((1, 2, 4, 8), (1, 4, 2))
    """
    num_tokens, num_kv_heads = q.shape[1], k.shape[2]
    dtype = accumulation_dtype(q.dtype)
    first = first_keys(starts, scoring.window, num_tokens=num_tokens, offset=offset)
    rows = heads.to_rows(q, num_kv_heads)
    scores, _ = _scores(rows, heads.head_major(k), num_tokens, offset, first, scoring)
    highest = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - highest)
    total = weights.sum(-1, keepdims=True)
    out = jnp.einsum(
        "bhrk,bhkd->bhrd", weights.astype(v.dtype), heads.head_major(v),
        preferred_element_type=dtype,
    ) / total
    lse = (highest + jnp.log(total))[..., 0]
    return heads.from_rows(out.astype(q.dtype), num_tokens), heads.query_values(lse, num_tokens)


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
    scoring: Scoring = PLAIN,
) -> tuple[Float[Array, "B Tq Hq D"], Float[Array, "B S Hkv D"], Float[Array, "B S Hkv Dv"]]:
    """Gradients of `forward`'s out, given its results and `dout`.

    Args:
      q: as for `forward`, and so k, v, offset, starts and scoring.
      k: see `forward`.
      v: see `forward`.
      offset: see `forward`.
      out: from `forward`.
      lse: from `forward`.
      dout: gradient of out, q's dtype.
      starts: see `forward`.
      scoring: see `forward`.

    Returns:
      dq in q's dtype, dk and dv in the accumulation dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> q, k = jnp.ones((1, 2, 4, 8)), jnp.ones((1, 5, 2, 8))
      >>> dq, dk, dv = backward(q, k, k, 3, *forward(q, k, k, 3), q)
      >>> dq.shape, dk.shape, dv.shape
      ((1, 2, 4, 8), (1, 5, 2, 8), (1, 5, 2, 8))
    """
    num_tokens, num_kv_heads = q.shape[1], k.shape[2]
    dtype = accumulation_dtype(q.dtype)
    delta = heads.to_rows(out.astype(dtype) * dout, num_kv_heads).sum(-1, keepdims=True)
    q, dout = heads.to_rows(q, num_kv_heads), heads.to_rows(dout, num_kv_heads)
    k, v = heads.head_major(k), heads.head_major(v)
    lse = heads.row_values(lse, num_kv_heads)[..., None]
    first = first_keys(starts, scoring.window, num_tokens=num_tokens, offset=offset)
    scores, derivative = _scores(q, k, num_tokens, offset, first, scoring)
    weights = jnp.exp(scores - lse)
    dweights = jnp.einsum("bhrd,bhkd->bhrk", dout, v, preferred_element_type=dtype)
    dscores = (weights * (dweights - delta) * derivative).astype(q.dtype)
    dv = jnp.einsum(
        "bhrk,bhrd->bhkd", weights.astype(q.dtype), dout, preferred_element_type=dtype
    )
    dq = jnp.einsum("bhrk,bhkd->bhrd", dscores, k, preferred_element_type=dtype)
    dk = jnp.einsum("bhrk,bhrd->bhkd", dscores, q, preferred_element_type=dtype)
    dq = heads.from_rows(dq.astype(q.dtype), num_tokens)
    return dq, heads.token_major(dk), heads.token_major(dv)


def _scores(
    q: Float[Array, "B Hkv GT D"],
    k: Float[Array, "B Hkv S D"],
    num_tokens: int,
    offset: int,
    first: Int[Array | np.ndarray, "#B T"] | None,
    scoring: Scoring,
) -> tuple[Float[Array, "B Hkv GT S"], Float[Array, "B Hkv GT S"] | float]:
    """Scores, -inf where the mask hides the key, and their derivative by products of q and k."""
    dtype, scale = accumulation_dtype(q.dtype), scoring.scale_of(q.shape[-1])
    products = jnp.einsum("bhrd,bhkd->bhrk", q, k, preferred_element_type=dtype)
    scores, derivative = scoring.cap(products * scale)
    derivative = scale if derivative is None else scale * derivative
    kv_heads, num_rows, num_keys = scores.shape[1:]
    distance = offset + jnp.arange(num_tokens)[:, None] - jnp.arange(num_keys)
    bias = scoring.bias(
        distance, num_heads=kv_heads * num_rows // num_tokens, num_kv_heads=kv_heads, dtype=dtype
    )
    scores = scores if bias is None else scores + bias
    return jnp.where(_visible(scores, num_tokens, offset, first), scores, -jnp.inf), derivative


def _visible(scores: Float[Array, "B Hkv GT S"], num_tokens: int, offset: int, first):
    """Row (g, i) sees key j when j <= offset + i; `num_tokens=2, offset=1` gives 110, 111 per g.

    Hidden beside that are the keys before the row's first one.
    """
    num_rows, num_keys = scores.shape[2:]
    query = jnp.arange(num_rows)[:, None] % num_tokens
    causal = jnp.arange(num_keys)[None, :] <= offset + query
    whole = Pairs(num_tokens, num_keys, False, np.zeros((1, 2), np.int32))
    near = visible(first, whole, 0, num_rows=num_rows)
    return causal if near is None else causal & near
