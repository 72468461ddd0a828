"""Packing in blocks: the values of a microbatch stay together, in one stack or in two.

Chunks run forward ascending and backward descending, so the values of a microbatch are a stack: the
first chunk's is written first and freed last. A stack that shrinks shares its room with one that
grows from the other end:

    address 3  |  c0 of 1                      microbatch 0 is `up`, 1 is `down`: the last chunk
            2  |  c2 of 0, then c1 of 1        of 0 has run backward when the second one of 1
            1  |  c1 of 0, then c2 of 1        runs forward, and so on
            0  |  c0 of 0

With many chunks a whole stack is too rigid, and two blocks per microbatch do better: its first
chunks and the others. There are so few blocks that first fit can be tried in many orders and
directions: a local search from fixed random numbers, of so many steps and no more.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, product
from typing import NamedTuple

from seq1f1b_jax.schedule.lowering.packing import Packing, Places

_CUTS = 16
"""How many cuts of a microbatch into two blocks are tried."""

_STEPS, _RESTART = 150, 50
"""Steps of the search for one cut, and after how many it begins anew. Seven times as many steps
gain nothing at the published sizes."""


class Owner(NamedTuple):
    """The unit and the stage that a value belongs to."""

    stage: int
    microbatch: int
    chunk: int


class _Blocks(NamedTuple):
    """Blocks and what they forbid each other.

    Attributes:
      places: of each block, in the order of chunks.
      offsets: of the places in their block: `[block][up or down]`.
      heights: of each block.
      blocked: `[block, direction, other, its direction]` to ranges between which the other's base
        may not lie, relative to the base of the block.
    """

    places: list[list[int]]
    offsets: list[tuple[list[int], list[int]]]
    heights: list[int]
    blocked: dict[tuple[int, int, int, int], list[tuple[int, int]]]


def pack_blocks(places: Places, owners: Sequence[Owner], bound: int) -> Iterator[Packing]:
    """Pack places in blocks, whole microbatches first, then those cut in two.

    Args:
      places: what to pack.
      owners: whose each place is.
      bound: a total that is as good as a smaller one.

    Yields:
      A packing for every cut.

    Example:
      >>> from seq1f1b_jax.schedule.lowering.blocks import Owner, pack_blocks
      >>> from seq1f1b_jax.schedule.lowering.packing import Places
      >>> places = Places((3, 2, 3, 2), (9, 5, 9, 5), neighbours=[[1, 2], [0], [0, 3], [2]])
      >>> owners = [Owner(0, microbatch, chunk) for microbatch in (0, 1) for chunk in (0, 1)]
      >>> min(packing.total for packing in pack_blocks(places, owners, bound=6))
      6
    """
    num_chunks = 1 + max((owner.chunk for owner in owners), default=0)
    for cut in range(0, num_chunks, -(-num_chunks // _CUTS)):
        blocks = _cut(places, owners, cut)
        bases, directions = _search(blocks, bound)
        offsets = [0] * len(owners)
        for block, own in enumerate(blocks.places):
            for place, offset in zip(own, blocks.offsets[block][directions[block]], strict=True):
                offsets[place] = bases[block] + offset
        yield Packing.of(offsets, places.sizes)


def _cut(places: Places, owners: Sequence[Owner], cut: int) -> _Blocks:
    """Blocks of the chunks before the cut and of those from it on."""
    members: dict[tuple, list[int]] = {}
    for place in sorted(range(len(owners)), key=lambda place: owners[place].chunk):
        stage, microbatch, chunk = owners[place]
        members.setdefault((stage, microbatch, chunk >= cut), []).append(place)
    own = list(members.values())
    sizes = [[places.sizes[place] for place in block] for block in own]
    heights = [sum(block) for block in sizes]
    offsets = []
    for block, height in zip(sizes, heights, strict=True):
        ups = list(accumulate(block, initial=0))[:-1]
        downs = [height - up - size for up, size in zip(ups, block, strict=True)]
        offsets.append((ups, downs))
    return _Blocks(own, offsets, heights, _blocked(places, own, offsets))


def _blocked(
    places: Places, own: list[list[int]], offsets: list[tuple[list[int], list[int]]]
) -> dict[tuple[int, int, int, int], list[tuple[int, int]]]:
    """What `_Blocks.blocked` holds: where two places that meet would overlap."""
    where = {place: (b, n) for b, block in enumerate(own) for n, place in enumerate(block)}
    apart: dict[tuple[int, int], list[tuple[int, int]]] = {}  # places that meet, by blocks
    for place, (block, n) in where.items():
        for other in places.neighbours[place]:
            other_block, m = where[other]
            if block < other_block:
                apart.setdefault((block, other_block), []).append((n, m))
    blocked: dict[tuple[int, int, int, int], list[tuple[int, int]]] = {}
    for (a, b), pairs in apart.items():
        sizes, others = ([places.sizes[place] for place in own[block]] for block in (a, b))
        for way, other_way in product((0, 1), repeat=2):
            here, there = offsets[a][way], offsets[b][other_way]
            ranges = _merged(
                [(here[n] - there[m] - others[m], here[n] - there[m] + sizes[n]) for n, m in pairs]
            )
            blocked[a, way, b, other_way] = ranges
            blocked[b, other_way, a, way] = [(-high, -low) for low, high in reversed(ranges)]
    return blocked


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Open ranges without their overlaps, in ascending order."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if not merged or low >= merged[-1][1]:
            merged.append((low, high))
        elif high > merged[-1][1]:
            merged[-1] = merged[-1][0], high
    return merged


def _search(blocks: _Blocks, bound: int) -> tuple[list[int], list[int]]:
    """Bases and directions of the blocks: the best of many orders."""
    draw, count = random.Random(0).random, len(blocks.heights)
    order, ways = list(range(count)), [0] * count
    bases, total = _fit(blocks, order, ways)
    best = total, bases, ways
    for step in range(_STEPS):
        if best[0] <= bound:
            break
        if step % _RESTART == 0:
            new_order = sorted(range(count), key=lambda _: draw())
            new_ways = [int(2 * draw()) for _ in range(count)]
        else:
            new_order, new_ways = _changed(order, ways, draw)
        bases, new_total = _fit(blocks, new_order, new_ways)
        if step % _RESTART == 0 or new_total <= total:
            order, ways, total = new_order, new_ways, new_total
        best = min(best, (new_total, bases, new_ways))
    return best[1], best[2]


def _changed(
    order: list[int], ways: list[int], draw: Callable[[], float]
) -> tuple[list[int], list[int]]:
    """Another direction for one block, or another place in the order."""
    order, ways, count = order.copy(), ways.copy(), len(order)
    if draw() < 0.5:
        ways[int(count * draw())] ^= 1
    else:
        moved = order.pop(int(count * draw()))
        order.insert(int(count * draw()), moved)
    return order, ways


def _fit(blocks: _Blocks, order: Sequence[int], ways: Sequence[int]) -> tuple[list[int], int]:
    """First fit of blocks: their bases, and the room needed."""
    bases, total = [-1] * len(order), 0
    for block in order:
        way, taken = ways[block], []
        for other, base in enumerate(bases):
            if base >= 0:
                ranges = blocks.blocked.get((other, ways[other], block, way), ())
                taken += [(base + low, base + high) for low, high in ranges]
        base = 0
        for low, high in sorted(taken):
            if low >= base:
                break
            base = max(base, high)
        bases[block] = base
        total = max(total, base + blocks.heights[block])
    return bases, total
