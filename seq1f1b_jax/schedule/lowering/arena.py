"""Fixed offsets for values whose lifetimes overlap, assigned before the program is traced.

This is dynamic storage allocation with known lifetimes, NP-hard for unequal sizes. No allocation
takes less than the sizes alive at the fullest tick (`peak_load`). First fit reaches that for equal
sizes; for others it depends on who comes first, so several orders are tried.

A schedule repeats itself: the values of a microbatch live like those of the one before, a little
later. What is packed well for a few microbatches can be repeated for all of them, so values are
also packed by *turns*: with n turns, microbatch m has the places of microbatch m-n.

    c0 c1 | c0 c1 | c0 c1 | c0 c1        chunks, by microbatch
    a  b  | d  e  | a  b  | d  e         places, with two turns

There are few places however many microbatches there are, so there is time to try many packings
(`blocks`). What then still takes more than the bound is packed in the order of time, without turns,
into as little room as it is found to fit (`in_time`).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from math import gcd

from seq1f1b_jax.schedule.lowering.blocks import Owner, pack_blocks
from seq1f1b_jax.schedule.lowering.in_time import pack_in_time
from seq1f1b_jax.schedule.lowering.packing import Interval, Packing, Places, first_fit

_PROMOTIONS = 8
"""Rounds of moving to the front what was put too high; more than a few gain nothing."""

_TURNS, _TRIED = (2, 4, 6, 8, 10, 12), 2
"""Even, since two microbatches that share their room grow from opposite ends of it (`blocks`). The
first numbers that will do are tried, this many of them; more turns than those pack no better."""

_HEIGHTS = 10
"""How many totals between the bound and the best so far are tried in the order of time."""


def allocate(
    intervals: Sequence[Interval],
    *,
    owners: Sequence[Owner] | None = None,
    enough: int = 0,
) -> Packing:
    """Give every interval an offset so that no two alive in the same tick overlap.

    Tried in turn, until one takes no more than the bound: the largest size for all, which is
    optimal for equal sizes and the most that is ever needed; longest lifetimes first; a few times
    with those that were put too high moved to the front; in the order of time, with no more than
    the bound; by turns, single and in blocks; and in the order of time, with more.

    Args:
      intervals: lifetimes in ticks, in any order.
      owners: of each interval; values of one stage and chunk must have one size. `None`: nothing
        is known to repeat.
      enough: a total that is as good as a smaller one.

    Returns:
      The best packing found.

    Example:
      >>> from seq1f1b_jax.schedule.lowering.arena import allocate
      >>> from seq1f1b_jax.schedule.lowering.packing import Interval
      >>> allocate([Interval(0, 3, 5), Interval(1, 2, 5), Interval(3, 4, 5)])
      Packing(offsets=(0, 5, 5), total=10)
    """
    bound = max(enough, peak_load(intervals))
    best = None
    for found in _attempts(intervals, owners, bound):
        best = found if best is None or found.total < best.total else best
        if best.total <= bound:
            break
    assert best is not None  # the first attempt always succeeds
    if best.total <= bound:
        return best
    unit, more = gcd(*(i.size for i in intervals)), best.total - 1 - bound
    tried = {(bound + more * n // _HEIGHTS) // unit * unit for n in range(1, _HEIGHTS + 1)}
    return next(_in_time(intervals, sorted(height for height in tried if height > bound)), best)


def peak_load(intervals: Sequence[Interval]) -> int:
    """Sum the sizes alive at the fullest tick: no allocation can take less."""
    # An end counts after every start of its tick, since its room is taken until the tick is over.
    events = sorted(
        [(i.start, 0, i.size) for i in intervals] + [(i.end, 1, -i.size) for i in intervals]
    )
    return max(accumulate(size for _, _, size in events), default=0)


def _attempts(
    intervals: Sequence[Interval], owners: Sequence[Owner] | None, bound: int
) -> Iterator[Packing]:
    places = Places(
        sizes=tuple(i.size for i in intervals),
        lifetimes=tuple(i.end - i.start for i in intervals),
        neighbours=_neighbours(intervals),
    )
    order = sorted(range(len(intervals)), key=lambda i: intervals[i].start)
    largest = max(places.sizes, default=0)
    padded = first_fit(places._replace(sizes=(largest,) * len(intervals)), order)
    yield Packing.of(padded.offsets, places.sizes)
    yield from _promoted(places, order, bound)
    yield from _in_time(intervals, [bound])
    valid = 0
    for turns in _TURNS if owners is not None else ():
        shared = _by_turns(places, owners, turns)
        if shared is not None and valid < _TRIED:
            valid += 1
            yield from _packed(*shared, bound)


def _promoted(places: Places, order: Sequence[int], bound: int) -> Iterator[Packing]:
    """Longest lifetimes first, then again and again with those too high moved to the front."""
    order = sorted(order, key=lambda i: -places.lifetimes[i])
    for _ in range(_PROMOTIONS):
        found = first_fit(places, order)
        yield found
        high = {i for i in order if found.offsets[i] + places.sizes[i] > bound}
        order = [*(i for i in order if i in high), *(i for i in order if i not in high)]


def _by_turns(
    places: Places, owners: Sequence[Owner], turns: int
) -> tuple[Places, list[Owner], list[int]] | None:
    """Places that serve every n-th microbatch, whose they are, and which each value has.

    `None` if two values of one place live together.
    """
    users = [owner._replace(microbatch=owner.microbatch % turns) for owner in owners]
    kinds = sorted(set(users), key=lambda user: (user.microbatch, user.chunk, user.stage))
    number = {kind: i for i, kind in enumerate(kinds)}
    place_of = [number[user] for user in users]
    shared = places.shared(place_of)
    return None if shared is None else (shared, kinds, place_of)


def _packed(
    shared: Places, kinds: Sequence[Owner], place_of: Sequence[int], bound: int
) -> Iterator[Packing]:
    singles = _promoted(shared, range(len(kinds)), bound)
    for found in chain(singles, pack_blocks(shared, kinds, bound)):
        yield Packing(tuple(found.offsets[i] for i in place_of), found.total)


def _in_time(intervals: Sequence[Interval], heights: Sequence[int]) -> Iterator[Packing]:
    """What fits into one of some heights, tried in their order, from either end of time."""
    backwards = [Interval(-i.end, -i.start, i.size) for i in intervals]
    for height in heights:
        for values in (intervals, backwards):
            found = pack_in_time(values, height)
            if found is not None:
                yield found


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
