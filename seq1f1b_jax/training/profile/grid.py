"""Which chunks are timed, and the cuts of a sequence that hold them."""

from collections.abc import Sequence
from typing import NamedTuple

from seq1f1b_jax.schedule import aligned_block, even_lengths


class Point(NamedTuple):
    """A chunk that is timed.

    Attributes:
      length: its tokens.
      offset: its first token.
    """

    length: int
    offset: int

    @property
    def end(self) -> int:
        """The token after its last."""
        return self.offset + self.length


class Cut(NamedTuple):
    """Chunk lengths of a sequence, and those of its chunks that are timed.

    Attributes:
      lengths: tokens of each chunk.
      points: of some chunks, by their index.
    """

    lengths: tuple[int, ...]
    points: dict[int, Point]


def usual_lengths(seq_len: int, num_chunks: int, *, block: int) -> tuple[int, ...]:
    """Lengths around that of an even chunk: half, once and twice as long.

    Args:
      seq_len: tokens of a sequence.
      num_chunks: of the run.
      block: lengths are multiples of it where the sequence allows.

    Example:
      >>> usual_lengths(4096, 4, block=128), usual_lengths(4096, 1, block=128)
      ((512, 1024, 2048), (2048, 4096))
    """
    block = aligned_block(seq_len, num_chunks, block=block)
    even = seq_len // num_chunks // block * block
    half = max(block, even // 2 // block * block)
    return tuple(sorted({half, even, min(2 * even, seq_len)}))


def points_of(seq_len: int, lengths: Sequence[int], *, block: int) -> tuple[Point, ...]:
    """Each length at the start, in the middle and at the end of a sequence.

    Three neighbours in the order are of three lengths, so that they fit beside each other.

    Args:
      seq_len: tokens of a sequence.
      lengths: to time, each at most `seq_len`.
      block: offsets are multiples of it.

    Example:
      >>> [tuple(point) for point in points_of(4096, (512, 1024, 2048), block=128)[:3]]
      [(2048, 0), (1024, 1536), (512, 3584)]
    """
    ordered, found = sorted(lengths, reverse=True), []
    for turn in range(len(ordered)):
        start, middle, end = (ordered[(turn + shift) % len(ordered)] for shift in range(3))
        found += [
            Point(start, 0),
            Point(middle, (seq_len - middle) // 2 // block * block),
            Point(end, (seq_len - end) // block * block),
        ]
    return tuple(dict.fromkeys(found))


def cuts_of(seq_len: int, points: Sequence[Point], *, block: int) -> tuple[Cut, ...]:
    """As few cuts as a simple packing needs: a point goes to the first where it overlaps none.

    What is between the points of a cut are chunks that are not timed, none longer than the longest
    that is: messages are padded to the longest chunk.

    Args:
      seq_len: tokens of a sequence.
      points: to time.
      block: chunks between them are multiples of it where the gap is.

    Example:
      >>> cuts = cuts_of(1024, [Point(256, 0), Point(512, 0), Point(256, 768)], block=128)
      >>> [(cut.lengths, list(cut.points)) for cut in cuts]
      [((256, 256, 256, 256), [0, 3]), ((512, 512), [0])]
    """
    groups: list[list[Point]] = []
    for point in points:
        fits = (g for g in groups if all(point.end <= p.offset or p.end <= point.offset for p in g))
        group = next(fits, None)
        if group is None:
            groups.append(group := [])
        group.append(point)
    return tuple(
        _cut(seq_len, sorted(group, key=lambda p: p.offset), block=block) for group in groups
    )


def _cut(seq_len: int, points: Sequence[Point], *, block: int) -> Cut:
    longest, at = max(point.length for point in points), 0
    lengths: list[int] = []
    timed: dict[int, Point] = {}
    for point in (*points, Point(0, seq_len)):
        if gap := point.offset - at:
            lengths += even_lengths(gap, -(-gap // longest), block=block)
        if point.length:
            timed[len(lengths)] = point
            lengths.append(point.length)
        at = point.end
    return Cut(tuple(lengths), timed)
