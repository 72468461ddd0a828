"""Places that must not overlap, and first fit, which gives each the lowest offset that is free."""

from collections.abc import Sequence
from typing import NamedTuple


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


class Packing(NamedTuple):
    """Where everything is put.

    Attributes:
      offsets: of each thing, in their order.
      total: room needed in all.
    """

    offsets: tuple[int, ...]
    total: int

    @classmethod
    def of(cls, offsets: Sequence[int], sizes: Sequence[int]) -> "Packing":
        """Offsets, and the highest end."""
        ends = (offset + size for offset, size in zip(offsets, sizes, strict=True))
        return cls(tuple(offsets), max(ends, default=0))


class Places(NamedTuple):
    """What is to be put somewhere.

    Attributes:
      sizes: of each place.
      lifetimes: in ticks.
      neighbours: of each place, the others that may not overlap it.
    """

    sizes: tuple[int, ...]
    lifetimes: tuple[int, ...]
    neighbours: list[list[int]]

    def shared(self, place_of: Sequence[int]) -> "Places | None":
        """Fewer places, each for all that name it; `None` if neighbours would share one."""
        count = max(place_of, default=-1) + 1
        apart: list[set[int]] = [set() for _ in range(count)]
        sizes, lifetimes = [0] * count, [0] * count
        for i, place in enumerate(place_of):
            apart[place].update(place_of[j] for j in self.neighbours[i])
            sizes[place] = max(sizes[place], self.sizes[i])
            lifetimes[place] = max(lifetimes[place], self.lifetimes[i])
        if any(place in others for place, others in enumerate(apart)):
            return None
        return Places(tuple(sizes), tuple(lifetimes), [sorted(others) for others in apart])


def first_fit(places: Places, order: Sequence[int]) -> Packing:
    """Give each place the lowest offset that its neighbours leave free, in this order.

    Example:
      >>> from seq1f1b_jax.schedule.lowering.packing import Places, first_fit
      >>> places = Places((3, 5, 4), (1, 9, 7), neighbours=[[1], [0, 2], [1]])
      >>> first_fit(places, [0, 1, 2]).total, first_fit(places, [1, 0, 2]).total
      (12, 9)
    """
    offsets: dict[int, int] = {}
    for i in order:
        taken = sorted((offsets[j], places.sizes[j]) for j in places.neighbours[i] if j in offsets)
        offset = 0
        for begin, size in taken:
            if begin - offset >= places.sizes[i]:
                break
            offset = max(offset, begin + size)
        offsets[i] = offset
    return Packing.of([offsets[i] for i in range(len(places.sizes))], places.sizes)
