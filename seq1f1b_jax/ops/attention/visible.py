"""Which keys a query sees within the causal mask: those of its document and of its window.

Both hide a prefix of the sequence, so one number per query describes them: its first visible key.

    starts    0 0 0 3 3 3 3     two documents, of 3 and 4 tokens
    window=3  0 0 0 1 2 3 4
    first     0 0 0 3 3 3 4     the larger of both; query i sees keys first[i] ... i

It never falls along a sequence. So a block of keys is empty for a block of queries where it ends
before the first visible key of the first of them.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from seq1f1b_jax.ops.pairs import Pairs

Starts = Int[Array, "B Tq"]


def first_keys(
    starts: Starts | None, window: int | None, *, num_tokens: int, offset: int
) -> Int[Array | np.ndarray, "#B Tq"] | None:
    """First visible key of every query, `[B, Tq]` or `[1, Tq]`; `None` where nothing is hidden.

    Args:
      starts: position of the first token of every query's document; `None`: one document.
      window: sliding-window size, in keys; `None`: no window.
      num_tokens: queries.
      offset: position of the first query.

    Example:
      >>> first_keys(None, 3, num_tokens=4, offset=2)
      array([[0, 1, 2, 3]], dtype=int32)
    """
    if window is not None and window < offset + num_tokens:
        positions = np.arange(offset, offset + num_tokens, dtype=np.int32)
        near = np.maximum(positions - (window - 1), 0)[None].astype(np.int32)
        return near if starts is None else jnp.maximum(starts, near)
    return starts


def visible(
    first: Int[Array | np.ndarray, "#B rows"] | None, pairs: Pairs, key, *, num_rows: int
) -> Bool[Array, "B 1 GR K"] | None:
    """Mask of one pair of blocks, rows `(g, i)` as in `heads.to_rows`; `None`: all is visible.

    Args:
      first: first visible key of the block's queries.
      pairs: the kind of pair.
      key: first key of the block.
      num_rows: rows of all query heads that share a key/value head, `G * rows`.
    """
    mask = None
    if pairs.causal:
        mask = jnp.arange(pairs.cols) <= jnp.arange(num_rows)[:, None] % pairs.rows
        mask = mask[None, None]
    if first is not None:
        rows = jnp.tile(first, (1, num_rows // pairs.rows))[:, None, :, None]
        near = key + jnp.arange(pairs.cols) >= rows
        mask = near if mask is None else mask & near
    return mask


def needed(first: Int[Array, "B Tq"], pairs: Pairs) -> Bool[Array, " num_pairs"]:
    """Which pairs hold a visible score in any sequence of the batch."""
    queries, keys = pairs.starts[:, 0], pairs.starts[:, 1]
    return first.min(0)[queries] < keys + pairs.cols
