"""Which (query block, key block) pairs a chunk needs: blockwise causal attention as data.

For four query blocks of a chunk at `offset`:

    keys    [ rest | prefix blocks ... | own blocks ]
    query 0   R      p p p p p p p p p   D
    query 1   R      p p p p p p p p p   p D
    query 2   R      p p p p p p p p p   p p D
    query 3   R      p p p p p p p p p   p p p D

Key blocks are counted backwards from the diagonal, so every diagonal block D is the same square
triangle (nothing else is masked) and what `offset` leaves over is one narrow block R at the front.
Pairs above the diagonal do not exist. All pairs of one kind are one loop of known trip count; a
shorter last query block has loops of its own, since its shapes differ.
"""

from typing import NamedTuple

import numpy as np

from seq1f1b_jax.ops.blocks import cut

BLOCK_CPU = 256
"""Within 7 % of the fastest of 128 ... 1024 on CPU (float32, 8 heads of 32 and 64), in 8 MB."""
BLOCK_ACCELERATOR = 1024
"""A loop step costs several kernel launches there. On an H200 blocks of 2048 are 1.2 times as fast
and take four times the memory (docs/design/gpu.md)."""


def block_of(platform: str) -> int:
    """Longest side of a block of `xla_blockwise`, tokens, that suits a platform."""
    return BLOCK_CPU if platform == "cpu" else BLOCK_ACCELERATOR


class Pairs(NamedTuple):
    """Pairs of one shape, `rows` queries by `cols` keys.

    Attributes:
      rows: queries in a block.
      cols: keys in a block.
      causal: the block is on the diagonal: its query i sees its keys 0 ... i.
      starts: int32 `[num_pairs, 2]`, first query (in the chunk) and first key (in the sequence).
    """

    rows: int
    cols: int
    causal: bool
    starts: np.ndarray


def causal_pairs(
    num_tokens: int, offset: int, *, block: int, window: int | None = None
) -> tuple[Pairs, ...]:
    """All pairs of a chunk, diagonal blocks before the others of the same query block.

    Args:
      num_tokens: queries in the chunk.
      offset: tokens before the chunk.
      block: longest block, tokens.
      window: sliding-window size, in keys; pairs outside it are left out, pairs that it crosses are
        kept whole.

    Returns:
      One to six loops; together they hold every visible (query, key) exactly once.

    Raises:
      ValueError: `offset` negative, or `num_tokens`, `block` or `window` below 1.

    Example:
      >>> [(p.rows, p.cols, p.causal, p.starts.tolist()) for p in causal_pairs(4, 3, block=2)]
      [(2, 2, True, [[0, 3], [2, 5]]), (2, 1, False, [[0, 0], [2, 0]]), \
(2, 2, False, [[0, 1], [2, 1], [2, 3]])]
    """
    if offset < 0:
        raise ValueError(f"offset={offset} counts the tokens before the chunk; it must be >= 0")
    if window is not None and window < 1:
        raise ValueError(f"window={window} counts the query itself; use 1 or more, or None")
    size, count, tail = cut(num_tokens, block)
    cols = size if num_tokens > size else block  # own key blocks are squares, where there are any
    rest = offset % cols
    found = []
    for rows, queries in ((size, range(0, count * size, size)), (tail, [count * size])):
        if not rows:
            continue
        # the first query of a block looks back furthest: to offset + i - (window - 1)
        nearest = {i: 0 if window is None else max(0, offset + i - (window - 1)) for i in queries}
        diagonal = [(i, offset + i) for i in queries]
        narrow = [(i, 0) for i in queries if rest and nearest[i] < rest]
        full = [
            (i, j)
            for i in queries
            for j in range(rest, offset + i, cols)
            if nearest[i] < j + cols
        ]
        found += [
            Pairs(rows, rows, True, _starts(diagonal)),
            Pairs(rows, rest, False, _starts(narrow)),
            Pairs(rows, cols, False, _starts(full)),
        ]
    return tuple(pairs for pairs in found if len(pairs.starts))


def _starts(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.asarray(pairs, np.int32).reshape(-1, 2)


def block_scores(num_tokens: int, offset: int, *, block: int | None) -> tuple[int, int, int]:
    """Scores that exist at one time.

    A loop over blocks holds one block. What is in no loop, XLA is free to compute early or at once.

    Args:
      num_tokens: queries of the chunk.
      offset: keys before it.
      block: longest side of a block; `None`: the whole score matrix is held; 0: no scores are.

    Returns:
      Of one head: scores of the largest block; of all blocks that are in no loop, together; queries
      of the largest block.

    Example:
      >>> block_scores(2048, 1024, block=512)
      (262144, 0, 512)
      >>> block_scores(512, 512, block=512)
      (262144, 524288, 512)
    """
    if block == 0:
        return 0, 0, 0
    if block is None:
        whole = num_tokens * (offset + num_tokens)
        return whole, whole, num_tokens
    kinds = causal_pairs(num_tokens, offset, block=block)
    alone = sum(kind.rows * kind.cols for kind in kinds if len(kind.starts) == 1)
    largest, rows = max((kind.rows * kind.cols, kind.rows) for kind in kinds)
    return largest, alone, rows
