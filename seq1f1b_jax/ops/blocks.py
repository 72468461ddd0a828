"""How tokens are cut into blocks: a length evenly, with a static tail; those of an expert."""

from typing import NamedTuple

LARGEST_EXPERT_BLOCK, SMALLEST_EXPERT_BLOCK = 1024, 8
"""Tokens of one expert: a matmul of a thousand rows is as fast as any; fewer waste less."""


class Blocks(NamedTuple):
    """`count` blocks of `size` tokens, then `tail` tokens: `count * size + tail` is the length."""

    size: int
    count: int
    tail: int


def cut(length: int, limit: int) -> Blocks:
    """Equal blocks of at most `limit` tokens, without a tail where a good divisor exists.

    A tail is one more copy of the block's program, so a divisor of `length` in `[limit/2, limit]`
    is taken when there is one; else blocks of `limit` and a shorter tail.

    Args:
      length: tokens to cut, at least 1.
      limit: longest block, tokens, at least 1.

    Returns:
      The cut.

    Raises:
      ValueError: `length` or `limit` below 1.

    Example:
      >>> cut(640, 512), cut(1000, 300), cut(1009, 512)
      (Blocks(size=320, count=2, tail=0), Blocks(size=250, count=4, tail=0), \
Blocks(size=512, count=1, tail=497))
    """
    if length < 1 or limit < 1:
        raise ValueError(
            f"length={length} and limit={limit}: both count tokens and must be at least 1"
        )
    if length <= limit:
        return Blocks(length, 1, 0)
    for size in range(limit, (limit - 1) // 2, -1):
        if length % size == 0:
            return Blocks(size, length // size, 0)
    return Blocks(limit, length // limit, length % limit)


def expert_block(num_pairs: int, num_experts: int) -> int:
    """Tokens of one expert that are worked on at a time.

    The power of two that is next to an expert's share, within bounds.

    Args:
      num_pairs: of a token and an expert, over all experts.
      num_experts: experts.

    Example:
      >>> expert_block(4096 * 8, 128), expert_block(3, 5)
      (256, 3)
    """
    share = max(1, num_pairs // num_experts)
    size = max(SMALLEST_EXPERT_BLOCK, 1 << (share - 1).bit_length())
    return min(LARGEST_EXPERT_BLOCK, size, num_pairs)
