"""How a sequence is cut into chunks: evenly, by cost, or as the user says."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import TypeAlias

ChunkCost: TypeAlias = Callable[[int, int], float]
"""`cost(start, length)` of a chunk, in tokens; must not fall when the chunk grows either way."""


def even_lengths(seq_len: int, num_chunks: int, *, block: int) -> tuple[int, ...]:
    """Cut a sequence into chunks as equal as the alignment allows.

    Args:
      seq_len: tokens of a sequence.
      num_chunks: how many chunks.
      block: cuts fall on multiples of it; see `aligned_block` for short sequences.

    Returns:
      Tokens of each chunk.

    Raises:
      ValueError: fewer tokens than chunks.

    Example:
      >>> from seq1f1b_jax.schedule import even_lengths
      >>> even_lengths(1000, 4, block=128)
      (256, 256, 256, 232)
    """
    return balanced_lengths(seq_len, num_chunks, lambda start, length: length, block=block)


def balanced_lengths(
    seq_len: int, num_chunks: int, cost: ChunkCost, *, block: int
) -> tuple[int, ...]:
    """Cut a sequence so that its most costly chunk costs as little as possible.

    Exactly optimal over all aligned cuts, for any cost that never falls when a chunk grows at
    either end. Among optimal cuts the one with the least sum of squared costs is taken, then the
    one whose first chunks are longest.

    Args:
      seq_len: tokens of a sequence.
      num_chunks: how many chunks.
      cost: `cost(start, length)` of one chunk, in tokens; any unit.
      block: cuts fall on multiples of it; see `aligned_block` for short sequences.

    Returns:
      Tokens of each chunk, all positive.

    Raises:
      ValueError: fewer tokens than chunks.

    Example:
      >>> from seq1f1b_jax.schedule import balanced_lengths
      >>> balanced_lengths(1024, 2, lambda start, length: length * (start + length), block=128)
      (640, 384)
    """
    block = aligned_block(seq_len, num_chunks, block=block)
    num_blocks = -(-seq_len // block)

    def span(first: int, last: int) -> float:
        """Cost of the chunk over blocks first ... last-1; the last block may be short."""
        return cost(first * block, min(last * block, seq_len) - first * block)

    limit = _least_limit(num_blocks, num_chunks, span)
    cuts = _evenest_cuts(num_blocks, num_chunks, span, limit)
    edges = [min(cut * block, seq_len) for cut in cuts]
    return tuple(b - a for a, b in pairwise(edges))


MAX_UNEVENNESS = 0.04
"""Of `tiled_lengths`, over the finer cut: at P=8, M=8 and 16, C=4 and 8, at the published sizes, a
step is at most 0.7 % longer for it in simulation. At 5.4 % it is 2.5 %."""


def tiled_lengths(
    seq_len: int,
    num_chunks: int,
    cost: ChunkCost,
    *,
    block: int,
    tile: int,
    max_unevenness: float = MAX_UNEVENNESS,
) -> tuple[int, ...]:
    """Cut as `balanced_lengths` does, at multiples of attention's tile where that costs little.

    Attention runs tile by tile. Where all cuts are multiples of the tile, every chunk is made of
    the same tiles, without a narrow one in front of its prefix.

    Args:
      seq_len: tokens of a sequence.
      num_chunks: how many chunks.
      cost: see `balanced_lengths`.
      block: cuts fall on multiples of it in any case.
      tile: tokens of attention's tile.
      max_unevenness: by how much the most costly chunk may cost more than where cuts fall on
        multiples of `block` only: 0.04 is 4 %; infinity where no rank waits for another.

    Returns:
      Tokens of each chunk, all positive.

    Raises:
      ValueError: fewer tokens than chunks.

    Example:
      >>> from seq1f1b_jax.schedule import tiled_lengths
      >>> cost = lambda start, length: length * (24000 + 2 * start + length)
      >>> tiled_lengths(16384, 3, cost, block=128, tile=1024)
      (7168, 5120, 4096)
      >>> tiled_lengths(16384, 3, cost, block=128, tile=4096)
      (7040, 5120, 4224)
    """

    def highest(lengths: tuple[int, ...]) -> float:
        starts = accumulate(lengths, initial=0)
        return max(cost(start, length) for start, length in zip(starts, lengths, strict=False))

    fine = balanced_lengths(seq_len, num_chunks, cost, block=block)
    if tile % block or tile > seq_len // num_chunks:
        return fine
    coarse = balanced_lengths(seq_len, num_chunks, cost, block=tile)
    return coarse if highest(coarse) <= (1 + max_unevenness) * highest(fine) else fine


def explicit_lengths(seq_len: int, lengths: Sequence[int]) -> tuple[int, ...]:
    """Check chunk lengths that a person wrote.

    Args:
      seq_len: tokens of a sequence.
      lengths: tokens of each chunk.

    Returns:
      The lengths as a tuple.

    Raises:
      ValueError: a length is not positive, there is none, or their sum is not `seq_len`.
    """
    if not lengths or min(lengths) < 1:
        raise ValueError(f"chunk lengths {list(lengths)} must be one or more positive numbers")
    excess = sum(lengths) - seq_len
    if excess:
        raise ValueError(
            f"chunk lengths {list(lengths)} do not add up to seq_len={seq_len}: their sum is"
            f" {seq_len + excess}; {'take away' if excess > 0 else 'add'} {abs(excess)} tokens"
        )
    return tuple(int(length) for length in lengths)


def aligned_block(seq_len: int, num_chunks: int, *, block: int) -> int:
    """Return the block that cuts are aligned to.

    Args:
      seq_len: tokens of a sequence.
      num_chunks: how many chunks.
      block: the wanted alignment, in tokens.

    Returns:
      `block` where every chunk can hold one; else the largest power of two of which it can.

    Raises:
      ValueError: fewer tokens than chunks, or a size below 1.

    Example:
      >>> from seq1f1b_jax.schedule import aligned_block
      >>> aligned_block(100, 4, block=128)
      16
    """
    if num_chunks < 1 or block < 1:
        raise ValueError(f"num_chunks={num_chunks} and block={block} must be at least 1")
    if seq_len < num_chunks:
        raise ValueError(
            f"seq_len={seq_len} cannot be cut into num_chunks={num_chunks} chunks of at least one"
            f" token; use at most {seq_len} chunks"
        )
    share = seq_len // num_chunks
    return block if block <= share else 1 << (share.bit_length() - 1)


def _least_limit(num_blocks: int, num_chunks: int, span: ChunkCost) -> float:
    """Find the least cost that no chunk need exceed.

    For the first chunk, find the shortest whose own cost is limit enough for the rest. Either it
    sets the limit, or the first chunk is a block shorter: that costs less than the optimum and
    leaves the least to the others. So go on with the others, and the optimum is the least of the
    limits met on the way. Two nested binary searches; the cost is called O((C log N)^2) times.
    """
    start, best = 0, span(0, num_blocks)
    for remaining in range(num_chunks, 0, -1):
        ends = range(start + 1, num_blocks - remaining + 2)
        index = bisect_left(
            ends,
            True,
            key=lambda end, start=start, remaining=remaining: _fits(
                end, num_blocks, remaining - 1, span, span(start, end)
            ),
        )
        if index < len(ends):
            best = min(best, span(start, ends[index]))
        if index == 0:
            break
        start = ends[index - 1]
    return best


def _fits(start: int, num_blocks: int, num_chunks: int, span: ChunkCost, limit: float) -> bool:
    """Whether the blocks from `start` on can be cut into chunks of at most `limit` each."""
    for remaining in range(num_chunks, 0, -1):
        end = _furthest(start, num_blocks, remaining, span, limit)
        if end == start:
            return False
        start = end
    return start == num_blocks


def _furthest(start: int, num_blocks: int, remaining: int, span: ChunkCost, limit: float) -> int:
    """End of the longest chunk of at most `limit` that leaves a block to each one after it."""
    ends = range(start + 1, num_blocks - remaining + 2)
    return start + bisect_right(ends, limit, key=lambda end: span(start, end))


def _evenest_cuts(
    num_blocks: int, num_chunks: int, span: ChunkCost, limit: float
) -> tuple[int, ...]:
    """Choose among the cuts under `limit` the ones with the least sum of squared costs.

    A dynamic program over the cuts that can be part of a solution. The limit is tight, so there are
    few of them: about num_chunks for each cut.
    """
    # cut -> (sum of squares, minus the cuts so far): the least of these is the choice
    choices: dict[int, tuple[float, tuple[int, ...]]] = {0: (0, (0,))}
    latest = 0
    for remaining in range(num_chunks - 1, -1, -1):
        latest = _furthest(latest, num_blocks, remaining + 1, span, limit)
        first = min(choices) + 1
        first += bisect_left(
            range(first, latest + 1),
            True,
            key=lambda cut, rest=remaining: _fits(cut, num_blocks, rest, span, limit),
        )
        choices = {
            cut: min(
                (squares + cost**2, (*cuts, -cut))
                for before, (squares, cuts) in choices.items()
                if before < cut and (cost := span(before, cut)) <= limit
            )
            for cut in range(first, latest + 1)
        }
    return tuple(-cut for cut in choices[num_blocks][1])
