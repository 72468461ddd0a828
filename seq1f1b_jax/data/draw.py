"""Which source the sequence at a place of a mixture comes from, and which one of it.

Sources with shares p, q, ... are drawn in turn: the first takes its share of the places, the second
q / (1 - p) of what is left, and so on. Of n places left, one with the share p of them takes

    floor(n p + u)        0 <= u < 1, fixed by the seed

so what each source has given up to a place is known without going through the places before it, and
place i goes to the source whose number rises from i to i + 1. With K sources each is within
1 + ln K of its share at every place. The arithmetic is that of whole numbers, hence exact.

    weights 2:1, u = 0:  b a a b a a ...   of `a` before place 0, 1, 2, ...:  0 0 1 2 2 3 4

Why not `grain.MapDataset.mix`, which counts in the same way: it rounds weights to about one in a
hundred (0.7 and 0.3 become 233 and 100), refuses a weight of zero, begins every pattern at the same
place whatever the seed, and cannot change its weights. Why not a die for every place: what a source
has given would need all places before it, and a step would miss its ratio by the root of its size.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import gcd, lcm
from typing import NamedTuple

WORD = 1 << 64


class Stretch(NamedTuple):
    """Part of a run in which weights stay the same.

    Attributes:
      start: its first place.
      weights: of every source by its key; above 0, or 0 for a source that gives nothing.
    """

    start: int
    weights: Mapping[str, float]


class Pick(NamedTuple):
    """The sequence at a place: number `index` of the training order of the source `key`."""

    key: str
    index: int


@dataclass(frozen=True)
class Draw:
    """Which source gives the sequence at each place, counted from 0 over the whole run.

    A function of (seed, place, weights); weights may change at a place, and each source goes on
    where it was.

    Attributes:
      seed: decides where patterns begin.
      stretches: weights in the order of their starts, the first at 0; all have the same keys. The
        order of keys does not matter.

    Example:
      >>> from seq1f1b_jax.data.draw import Draw, Stretch
      >>> draw = Draw(0, (Stretch(0, {"a": 0.75, "b": 0.25}),)).changed(8, {"a": 1, "b": 3})
      >>> "".join(draw.pick(place).key for place in range(16)), draw.counts(8), draw.counts(16)
      ('abaaabaababbbabb', {'a': 6, 'b': 2}, {'a': 8, 'b': 8})
    """

    seed: int
    stretches: tuple[Stretch, ...]

    @property
    def weights(self) -> Mapping[str, float]:
        """Of the last stretch."""
        return self.stretches[-1].weights

    def counts(self, place: int) -> dict[str, int]:
        """Sequences that each source gives before a place."""
        at = self._stretch_of(place)
        length = place - self.stretches[at].start
        return {
            key: before + number
            for (key, before), number in zip(
                self._before[at].items(), self._splits[at].counts(length), strict=True
            )
        }

    def pick(self, place: int) -> Pick:
        """The sequence at a place."""
        now, then = self.counts(place), self.counts(place + 1)
        key = next(key for key in now if now[key] < then[key])
        return Pick(key, now[key])

    def changed(self, start: int, weights: Mapping[str, float]) -> "Draw":
        """With other weights from the place `start` on; the same where they have the same ratio."""
        if _shares(weights) == _shares(self.weights):
            return self
        kept = tuple(stretch for stretch in self.stretches if stretch.start < start)
        return replace(self, stretches=(*kept, Stretch(start, dict(weights))))

    def _stretch_of(self, place: int) -> int:
        return max(at for at, stretch in enumerate(self.stretches) if stretch.start <= place)

    @cached_property
    def _splits(self) -> tuple["_Split", ...]:
        return tuple(
            _Split.of(stretch.weights, f"{self.seed} {number}")
            for number, stretch in enumerate(self.stretches)
        )

    @cached_property
    def _before(self) -> tuple[dict[str, int], ...]:
        """What each source has given before each stretch, by sorted keys."""
        totals = [dict.fromkeys(sorted(self.weights), 0)]
        for at, following in enumerate(self.stretches[1:]):
            given = self._splits[at].counts(following.start - self.stretches[at].start)
            keys = totals[-1].items()
            totals.append({k: n + more for (k, n), more in zip(keys, given, strict=True)})
        return tuple(totals)


class _Split(NamedTuple):
    """How places are shared out: `shares` of each source in whole numbers, and where it begins."""

    shares: tuple[int, ...]
    shifts: tuple[int, ...]

    @classmethod
    def of(cls, weights: Mapping[str, float], salt: str) -> "_Split":
        shares = tuple(_shares(weights).values())
        digests = (hashlib.sha256(f"{salt} {at}".encode()).digest() for at in range(len(shares)))
        return cls(shares, tuple(int.from_bytes(digest[:8]) for digest in digests))

    def counts(self, num_places: int) -> list[int]:
        """Of the first places, how many go to each source."""
        counts, rest = [], sum(self.shares)
        for share, shift in zip(self.shares, self.shifts, strict=True):
            # rest is 0 only after the last source with a share, which took all that was left
            taken = (num_places * share + shift * rest // WORD) // rest if rest else 0
            counts.append(taken)
            num_places, rest = num_places - taken, rest - share
        return counts


def _shares(weights: Mapping[str, float]) -> dict[str, int]:
    """The ratio of weights in the smallest whole numbers, by sorted key; decimals are exact.

    Example:
      >>> _shares({"b": 0.3, "a": 0.7})
      {'a': 7, 'b': 3}
    """
    exact = {key: Fraction(str(weights[key])) for key in sorted(weights)}
    scale = lcm(*(value.denominator for value in exact.values()))
    whole = {key: int(value * scale) for key, value in exact.items()}
    divisor = gcd(*whole.values())
    return {key: value // divisor for key, value in whole.items()}
