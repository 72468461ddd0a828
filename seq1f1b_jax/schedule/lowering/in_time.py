"""Packing in the order of time: each value is put, as it is written, into a room of a given height.

A beam search: of all packings of what has been written so far only the most promising are kept. A
value goes to an end of a gap, or as far from it as the next value needs. Promising is what leaves
large gaps when the next value has been freed:

    now      |aa....bb..cc|    gaps of 4 and 2
    then     |aa........cc|    b is freed next: a gap of 8

The same values are alive in all of them and only offsets differ, so that they are one array.
"""

from collections.abc import Sequence
from math import gcd

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.schedule.lowering.packing import Interval, Packing

_WIDTH = 300
"""Packings that are kept. More, a look further ahead, or room for more of the next values gain
nothing at the published sizes."""


def pack_in_time(values: Sequence[Interval], height: int) -> Packing | None:
    """Offsets below `height` for all values, so that no two alive in one tick overlap.

    Args:
      values: with their lifetimes, in any order.
      height: room that there is.

    Returns:
      A packing; `None`: none was found, though there may be one.

    Example:
      >>> from seq1f1b_jax.schedule.lowering.packing import Interval
      >>> from seq1f1b_jax.schedule.lowering.in_time import pack_in_time
      >>> values = [Interval(0, 1, 2), Interval(0, 3, 1), Interval(2, 3, 2)]
      >>> pack_in_time(values, 3)
      Packing(offsets=(0, 2, 0), total=3)
      >>> pack_in_time(values, 2) is None
      True
    """
    unit = gcd(*(value.size for value in values))
    sizes = np.array([value.size // unit for value in values], np.int64)
    ends = np.array([value.end for value in values], np.int64)
    height //= unit
    order = sorted(range(len(values)), key=lambda i: values[i].start)
    alive, offsets = np.zeros(0, np.int64), np.zeros((1, 0), np.int64)
    chosen: list[tuple[int, NDArray[np.int64], NDArray[np.int64]]] = []
    for value, following in zip(order, [*order[1:], None], strict=True):
        stays = ends[alive] >= values[value].start
        alive, offsets = alive[stays], offsets[:, stays]
        beside = (0,) if following is None else (0, sizes[following])
        parents, found = _choices(offsets, sizes[alive], sizes[value], beside, height)
        alive = np.append(alive, value)
        offsets = np.column_stack([offsets[parents], found])
        best = _most_promising(offsets, sizes[alive], ends[alive], height)
        if not len(best):
            return None
        offsets = offsets[best]
        chosen.append((value, parents[best], found[best]))
    packed, row = [0] * len(values), 0
    for value, parents, found in reversed(chosen):
        packed[value] = int(found[row]) * unit
        row = parents[row]
    return Packing.of(packed, [value.size for value in values])


def _choices(
    offsets: NDArray[np.int64], sizes: NDArray[np.int64], size: int, beside: Sequence[int],
    height: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Packings, and where in their gaps a value goes: so far `beside` an end, either one.

    Offsets are `[packings, values]`, sizes `[values]`, and so below.
    """
    low, high = _gaps(offsets, sizes, height)
    parents, found = [], []
    for room in beside:
        bottom = np.nonzero(high - low >= size + room)
        top = np.nonzero(high - low > size + room)
        parents += [bottom[0], top[0]]
        found += [low[bottom] + room, high[top] - size - room]
    return np.concatenate(parents), np.concatenate(found)


def _most_promising(
    offsets: NDArray[np.int64], sizes: NDArray[np.int64], ends: NDArray[np.int64],
    height: int,
) -> NDArray[np.int64]:
    """The packings with the largest gaps when the next value has been freed, each once."""
    weights = np.arange(1, len(sizes) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (offsets.astype(np.uint64) + np.uint64(1)) * weights  # to one number of each packing
    _, once = np.unique((mixed ^ (mixed >> np.uint64(29))).sum(axis=1), return_index=True)
    stays = ends > ends.min()
    low, high = _gaps(offsets[once][:, stays], sizes[stays], height)
    score = np.square(high - low).sum(axis=1)
    return once[np.argsort(-score, kind="stable")[:_WIDTH]]


def _gaps(
    offsets: NDArray[np.int64], sizes: NDArray[np.int64], height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the room between values begins and ends, ascending."""
    more = np.max(sizes, initial=0) + 1  # than any size: begin and size are sorted as one number
    begins, sizes_above = np.divmod(np.sort(offsets * more + sizes, axis=1), more)
    count = len(offsets)
    low = np.column_stack([np.zeros(count, np.int64), begins + sizes_above])
    high = np.column_stack([begins, np.full(count, height, np.int64)])
    return low, high
