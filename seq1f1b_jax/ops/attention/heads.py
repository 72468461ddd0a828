"""Layouts around the matmuls of attention: head-major, query groups folded into rows.

Tensors arrive token-major, `[B, T, H, D]`. Batched matmuls want the head before the token; made
explicit, that is worth a factor of three on CPU. The `G = Hq / Hkv` query heads that share one
key/value head become rows of the same matmul, so keys and values are never repeated:
`[B, T, Hkv*G, D] -> [B, Hkv, G*T, D]`.
"""

from einops import rearrange
from jaxtyping import Array, Float


def to_rows(q: Float[Array, "B T Hq D"], num_kv_heads: int) -> Float[Array, "B Hkv GT D"]:
    """Queries head-major, one row for each (query head of the group, token)."""
    return rearrange(q, "b t (h g) d -> b h (g t) d", h=num_kv_heads)


def from_rows(rows: Float[Array, "B Hkv GT D"], num_tokens: int) -> Float[Array, "B T Hq D"]:
    """Inverse of `to_rows`."""
    return rearrange(rows, "b h (g t) d -> b t (h g) d", t=num_tokens)


def head_major(k: Float[Array, "B S Hkv D"]) -> Float[Array, "B Hkv S D"]:
    """Keys or values with the head before the token."""
    return rearrange(k, "b s h d -> b h s d")


def token_major(k: Float[Array, "B Hkv S D"]) -> Float[Array, "B S Hkv D"]:
    """Inverse of `head_major`."""
    return rearrange(k, "b h s d -> b s h d")


def row_values(x: Float[Array, "B Hq T"], num_kv_heads: int) -> Float[Array, "B Hkv GT"]:
    """One number per query (lse, delta) in the order of `to_rows`."""
    return rearrange(x, "b (h g) t -> b h (g t)", h=num_kv_heads)


def query_values(rows: Float[Array, "B Hkv GT"], num_tokens: int) -> Float[Array, "B Hq T"]:
    """Inverse of `row_values`."""
    return rearrange(rows, "b h (g t) -> b (h g) t", t=num_tokens)


def feature_major(k: Float[Array, "B S Hkv D"]) -> Float[Array, "B Hkv D S"]:
    """Keys or values with the token last."""
    return rearrange(k, "b s h d -> b h d s")


def from_columns(columns: Float[Array, "B Hkv D GT"], num_tokens: int) -> Float[Array, "B T Hq D"]:
    """Like `from_rows` for a transposed matrix."""
    return rearrange(columns, "b h d (g t) -> b t (h g) d", t=num_tokens)
