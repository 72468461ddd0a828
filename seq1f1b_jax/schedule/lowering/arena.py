"""Fixed offsets for values whose lifetimes overlap, assigned before the program is traced."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

# Rounds of moving to the front what was put too high; more than a few gain nothing.
_PROMOTIONS = 8


class Interval(NamedTuple):
    """The lifetime of a value.

    Attributes:
      start: tick that writes it.
      end: tick that reads it last; its room is free from the tick after.
      size: of the value, in any unit.
    """

    start: int
    end: int
    size: int


def allocate(intervals: Sequence[Interval]) -> tuple[tuple[int, ...], int]:
    """Give every interval an offset so that no two alive in the same tick overlap.

    First fit, which packs well or badly depending on who comes first. Tried in turn: the
    largest size for all, which is optimal for equal sizes and the most that is ever needed; longest
    lifetimes first; then a few times with those that were put too high moved to the front. For
    unequal sizes the optimum is NP-hard and gaps remain (about a tenth, for the lengths that
    balance attention).

    Args:
      intervals: lifetimes in ticks, in any order.

    Returns:
      The offset of each interval, and the room needed in all.

    Example:
      >>> from seq1f1b_jax.schedule.lowering.arena import Interval, allocate
      >>> allocate([Interval(0, 3, 5), Interval(1, 2, 5), Interval(3, 4, 5)])
      ((0, 5, 5), 10)
    """
    bound = peak_load(intervals)
    neighbours = _neighbours(intervals)

    def attempt(order: Sequence[int], padded: Sequence[Interval]) -> tuple[int, tuple[int, ...]]:
        offsets = _first_fit(padded, order, neighbours)
        return max(map(_top, offsets, intervals), default=0), offsets

    largest = max((i.size for i in intervals), default=0)
    order = sorted(range(len(intervals)), key=lambda i: intervals[i].start)
    best = attempt(order, [i._replace(size=largest) for i in intervals])
    order.sort(key=lambda i: intervals[i].start - intervals[i].end)
    for _ in range(_PROMOTIONS):
        if best[0] == bound:
            break
        total, offsets = attempt(order, intervals)
        best = min(best, (total, offsets))
        high = {i for i in order if _top(offsets[i], intervals[i]) > bound}
        order = [*(i for i in order if i in high), *(i for i in order if i not in high)]
    total, offsets = best
    return offsets, total


def _top(offset: int, interval: Interval) -> int:
    return offset + interval.size


def peak_load(intervals: Sequence[Interval]) -> int:
    """Sum the sizes alive at the fullest tick: no allocation can take less."""
    # An end counts after every start of its tick, since its room is taken until the tick is over.
    events = sorted(
        [(i.start, 0, i.size) for i in intervals] + [(i.end, 1, -i.size) for i in intervals]
    )
    return max(accumulate(size for _, _, size in events), default=0)


def _neighbours(intervals: Sequence[Interval]) -> list[list[int]]:
    """For each interval, the others that are alive with it."""
    order = sorted(range(len(intervals)), key=lambda i: intervals[i].start)
    starts = [intervals[i].start for i in order]
    latest_ends = list(accumulate((intervals[i].end for i in order), max))
    result: list[list[int]] = [[] for _ in intervals]
    for i in order:
        start, end, _ = intervals[i]
        window = order[bisect_left(latest_ends, start) : bisect_right(starts, end)]
        result[i] = [j for j in window if j != i and intervals[j].end >= start]
    return result


def _first_fit(
    intervals: Sequence[Interval], order: Sequence[int], neighbours: Sequence[Sequence[int]]
) -> tuple[int, ...]:
    offsets: dict[int, int] = {}
    for i in order:
        taken = sorted((offsets[j], intervals[j].size) for j in neighbours[i] if j in offsets)
        offset = 0
        for begin, size in taken:
            if begin - offset >= intervals[i].size:
                break
            offset = max(offset, begin + size)
        offsets[i] = offset
    return tuple(offsets[i] for i in range(len(intervals)))
