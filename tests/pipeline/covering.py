"""Pairwise covering arrays: few cases in which every pair of values of any two factors occurs."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Case = dict[str, Any]


def covering_array(
    factors: Mapping[str, Sequence[Any]],
    *,
    strength: int = 2,
    valid: Callable[[Case], bool] = lambda case: True,
    also: Callable[[Case], Iterable[Any]] = lambda case: (),
    seeds: Sequence[Case] = (),
) -> list[Case]:
    """Greedy cover of all `strength`-tuples of values that some valid case holds.

    `also` names further things that a case covers; all that occur must be covered. `seeds` are
    complete cases that stand first (the traps by name). Deterministic.
    """
    names = list(factors)
    cases = [
        case
        for case in map(
            lambda v: dict(zip(names, v, strict=True)), itertools.product(*factors.values())
        )
        if valid(case)
    ]
    subsets = list(itertools.combinations(names, strength))

    def tuples_of(case: Case) -> frozenset:
        tuples = ((subset, tuple(case[name] for name in subset)) for subset in subsets)
        return frozenset((*tuples, *also(case)))

    chosen = [dict(seed) for seed in seeds]
    missing = set().union(*map(tuples_of, _thin(cases)))
    for case in chosen:
        missing -= tuples_of(case)
    pool = [(case, tuples_of(case)) for case in _thin(cases)]
    while missing:
        case, covered = max(pool, key=lambda item: len(item[1] & missing))
        chosen.append(case)
        missing -= covered
    return chosen


def _thin(cases: list[Case], limit: int = 3000) -> list[Case]:
    """An even, deterministic sample: greedy choice from thousands is as good as from all."""
    stride = max(1, len(cases) // limit)
    while stride > 1 and any(stride % small == 0 for small in (2, 3, 5, 7)):
        stride += 1
    return cases[::stride]
