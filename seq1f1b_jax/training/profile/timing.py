"""Seconds of a stage's actions: rows of a table of measured costs.

Other programs can only make an action slower, so what counts is the median of the faster half of
its timings. Actions take turns in rounds, so that a slow minute is everybody's.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax

from seq1f1b_jax.cli.devices import num_cores
from seq1f1b_jax.schedule import Op
from seq1f1b_jax.schedule.simulation.cost_table import Row
from seq1f1b_jax.training.profile.actions import FIRST, LAST, MIDDLE, Actions, Case, Profiled
from seq1f1b_jax.training.profile.grid import Cut

QUEUED_SECONDS = 0.01
"""Short actions are queued until a timing lasts so long: their launch is hidden, as in a step."""
MAX_QUEUED = 50
MIN_ROUNDS, MAX_ROUNDS = 5, 25
"""Of one cut: as many as its part of the time allows."""


class Work(NamedTuple):
    """A cut with whole or split backwards, and what of it is timed."""

    cut: Cut
    split: bool
    ops: tuple[Op, ...]

    @property
    def num_programs(self) -> int:
        """To compile."""
        return len(self.cut.points) * len(self.ops)


def work_of(cuts: Sequence[Cut], *, split: bool) -> tuple[Work, ...]:
    """What there is to do.

    Args:
      cuts: with the points to time.
      split: whether the halves of backwards are timed, beside whole ones.
    """
    work = [Work(cut, False, (Op.F, Op.B)) for cut in cuts]
    return (*work, *(Work(cut, True, (Op.I, Op.W)) for cut in cuts if split))


def measure(
    profiled: Profiled, work: Work, *, seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    advance: Callable[[str], None] = lambda what: None,
) -> Iterator[Row]:
    """Compile the actions of one cut, and time them in rounds; the first calls are not timed.

    Args:
      profiled: what is measured.
      work: the cut.
      seconds: for the rounds, of which there are at least five.
      clock: that times an action; another one than the wall's where other programs disturb it.
      advance: told of every program that is compiled, and of the rounds.

    Yields:
      One row for every operation and point.
    """
    actions = Actions(profiled, work.cut.lengths, split=work.split)
    with ThreadPoolExecutor(num_cores()) as pool:
        programs = [(op, chunk) for op in work.ops for chunk in work.cut.points]
        for op, chunk in pool.map(actions.compile, *zip(*programs, strict=True)):
            point = work.cut.points[chunk]
            advance(f"compiled {op} of {point.length} tokens at {point.offset}")
    cases = [case for case in actions.cases(list(work.cut.points)) if case.op in work.ops]
    advance(f"timing {len(cases)} actions")
    counts = {case: _count(actions, case, clock) for case in cases}
    found: dict[Case, list[float]] = defaultdict(list)
    began = time.perf_counter()
    for turn in range(MAX_ROUNDS):
        if turn >= MIN_ROUNDS and time.perf_counter() - began > seconds:
            break
        for case, count in counts.items():
            found[case].append(_seconds(actions, case, count, clock))
    for op in work.ops:
        for chunk, point in work.cut.points.items():
            first, middle, last = (found[Case(op, chunk, s)] for s in (FIRST, MIDDLE, LAST))
            yield Row(
                op=str(op), length=point.length, offset=point.offset,
                layers=faster_half(middle), embedding=_more(first, middle),
                head=_more(last, middle), spread=_spread(middle),
            )  # fmt: skip


def faster_half(seconds: Sequence[float]) -> float:
    """The median of the faster half of some timings.

    Example:
      >>> faster_half([3.0, 1.0, 9.0, 1.5, 2.0])
      1.5
    """
    return statistics.median(sorted(seconds)[: (len(seconds) + 1) // 2])


def _count(actions: Actions, case: Case, clock: Callable[[], float]) -> int:
    """Calls to queue in one timing; warms up."""
    _seconds(actions, case, 1, clock)
    alone = max(1e-9, _seconds(actions, case, 1, clock))
    return max(1, min(MAX_QUEUED, round(QUEUED_SECONDS / alone)))


def _seconds(actions: Actions, case: Case, count: int, clock: Callable[[], float]) -> float:
    """Of one call, of so many that are waited for together."""
    start, sent = clock(), None
    for _ in range(count):
        sent = actions.call(case)
    jax.block_until_ready(sent)
    return (clock() - start) / count


def _more(seconds: Sequence[float], others: Sequence[float]) -> float:
    """What one takes beyond the other; 0 where it was not timed."""
    return faster_half(seconds) - faster_half(others) if seconds else 0.0


def _spread(seconds: Sequence[float]) -> float:
    """The middle half over the median."""
    low, middle, high = statistics.quantiles(seconds, n=4)
    return (high - low) / middle
