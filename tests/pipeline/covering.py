"""Pairwise covering arrays: few cases in which every pair of values of any two factors occurs."""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

Case = dict[str, Any]


def covering_array(
    factors: Mapping[str, Sequence[Any]],
    *,
    strength: int = 2,
    valid: Callable[[Case], bool] = lambda case: True,
    also: Callable[[Case], Iterable[Any]] = lambda case: (),
    cost: Callable[[Case], float] = lambda case: 1.0,
    seeds: Sequence[Case] = (),
) -> list[Case]:
    """Greedy cover of all `strength`-tuples of values that some valid case holds.

    `also` names further things that a case covers; all that occur must be covered. Each step takes
    the case that covers most for its `cost`, which counts less than the cover: few cases matter
    too. `seeds` are complete cases that stand first (the traps by name). Deterministic.
    """
    names = list(factors)
    cases = [case for case in _products(factors) if valid(case)]
    subsets = list(itertools.combinations(names, strength))

    bits: dict[Any, int] = {}

    def tuples_of(case: Case) -> int:
        """The tuples that a case holds, each a bit: their sets are intersected very often."""
        tuples = ((subset, tuple(case[name] for name in subset)) for subset in subsets)
        found = 0
        for one in (*tuples, *also(case)):
            found |= 1 << bits.setdefault(one, len(bits))
        return found

    chosen = [dict(seed) for seed in seeds]
    pool = [(case, tuples_of(case)) for case in _thin(cases)]
    missing = functools.reduce(operator.or_, (covered for _, covered in pool))
    for case in chosen:
        missing &= ~tuples_of(case)
    while missing:
        case, covered = max(
            pool, key=lambda item: (item[1] & missing).bit_count() / cost(item[0]) ** 0.6
        )
        chosen.append(case)
        missing &= ~covered
    return chosen


def _products(factors: Mapping[str, Sequence[Any]], limit: int = 200_000) -> Iterator[Case]:
    """Cases of the full product, evenly thinned out to about `limit` where there are more."""
    sizes = [len(values) for values in factors.values()]
    for index in range(0, math.prod(sizes), _stride(math.prod(sizes), limit)):
        case = {}
        for name, values in factors.items():
            index, choice = divmod(index, len(values))
            case[name] = values[choice]
        yield case


def _stride(count: int, limit: int) -> int:
    """A stride that shares no factor with small sizes, so that no value is skipped."""
    stride = max(1, count // limit)
    while stride > 1 and any(stride % small == 0 for small in (2, 3, 5, 7)):
        stride += 1
    return stride


def _thin(cases: list[Case], limit: int = 3000) -> list[Case]:
    """An even, deterministic sample: greedy choice from thousands is as good as from all."""
    return cases[:: _stride(len(cases), limit)]
