"""The search, stage by stage.

Each adds to the orders found so far:

    bound     a time that no order within the cap can beat
    seeds     the named schedules, and one-forward-one-backward with other warm-ups; if one meets
              the bound it is optimal, and the search is over
    layers    tick by tick, the most promising states of each (`layers`, `ticks`)
    whole     for tiny sizes, layers that drop nothing that could be faster: a proof
    polish    small changes of the best orders so far (`polish`)
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from math import inf
from typing import Any, NamedTuple

import numpy as np

from seq1f1b_jax.explore.search.bound import lower_bound
from seq1f1b_jax.explore.search.events import Events
from seq1f1b_jax.explore.search.layers import TOLERANCE, Exploration, explore
from seq1f1b_jax.explore.search.order_timer import OrderTimer
from seq1f1b_jax.explore.search.polish import polish
from seq1f1b_jax.explore.search.problem import Problem
from seq1f1b_jax.explore.search.seeds import SEARCH, exchanges, seeds
from seq1f1b_jax.explore.search.streams import Streams
from seq1f1b_jax.explore.search.ticks import Ticks
from seq1f1b_jax.schedule.exchange import Exchange
from seq1f1b_jax.schedule.plan import Plan, peak_units
from seq1f1b_jax.schedule.registry import make_plan
from seq1f1b_jax.schedule.simulation.durations import Costs
from seq1f1b_jax.schedule.simulation.simulate import simulate
from seq1f1b_jax.schedule.validate import validate

_HASTES = (0.0, 0.3, 1.0)
_WIDTH = 150  # states per layer, ...
_ROUNDS = 60  # ... and rounds of changes, ...
_USUAL = 256  # ... for as many actions; fewer where there are more
_LONG = 2048  # actions from which on layers of bearable width find nothing good
_TINY = 72  # actions up to which all orders may be looked at
_WHOLE = 150_000  # states that this may take, ...
_WHOLE_WIDTH = 15_000  # ... and those of one layer
_STARTS = 3  # orders that are polished


@dataclass(frozen=True)
class SearchResult:
    """The best plan found, and how much better another could be at most.

    Attributes:
      plan: valid, within the cap, named `search`.
      makespan: time of the plan on the machine, as `simulate` gives it.
      lower_bound: time that no order within the cap can beat, on any machine.
      proof: why nothing is faster: `bound`, the makespan is the lower bound; `exhaustive`, no order
        of the search's space is (see `find_plan`); empty, nothing is proven.
      origin: the named schedule whose order it is, or `search`.
      machine: that was minimised.
      max_units: units that any rank may hold at once.
      split: whether backwards are split into I and W.
    """

    plan: Plan
    makespan: Any
    lower_bound: Any
    proof: str
    origin: str
    machine: str
    max_units: int
    split: bool

    @property
    def exact(self) -> bool:
        """Whether it is proven that nothing is faster."""
        return bool(self.proof)


def find_plan(
    *,
    num_ranks: int,
    num_microbatches: int,
    num_chunks: int,
    costs: Costs,
    max_units: int | None = None,
    stages_per_rank: int = 1,
    split: bool = False,
    machine: str = "executor",
    seed: int = 0,
) -> SearchResult:
    """Find an order of work that takes little time within a cap on memory.

    Up to 72 actions in all (P=2, M=4, C=4; P=3, M=6, C=2) every order is looked at in which equal
    actions of a stage (operation and chunk) run in the order of their microbatches, with both
    exchanges; a search that finds too many of them gives up (split backwards, stages). On
    the asynchronous machine no order at all is then faster (`streams` says why). Beyond that the
    search is a heuristic. All claims hold to one part in 10^9.

    Args:
      num_ranks: ranks of the pipeline P, at least 1.
      num_microbatches: sequence timers per step M, at least 1.
      num_chunks: slices of each sequence C, at least 1.
      costs: times of the actions.
      max_units: units that any rank may hold at once, as `peak_units` counts them; None: what
        `seq1f1b` (with several stages per rank `seq1f1b-i`) takes on its fullest rank.
      stages_per_rank: stages per rank V, at least 1.
      split: whether backwards are split into I and W.
      machine: one of `MACHINES`: whose time is minimised.
      seed: of the random changes; the same one finds the same plan. A search takes
        seconds (P=4, M=8, C=4: below 10).

    Returns:
      The best plan found; never slower than any named schedule within the cap.

    Raises:
      ValueError: a size is below 1, the cap is below `V*C`, the machine is unknown,
        or the costs do not fit the sizes.

    Example:
      >>> from seq1f1b_jax.schedule import Costs
      >>> from seq1f1b_jax.explore.search import find_plan
      >>> costs = Costs(forward=[1, 2], backward=[2, 4])  # the second chunk costs twice the first
      >>> sizes = {"num_ranks": 2, "num_microbatches": 2, "num_chunks": 2}
      >>> found = find_plan(**sizes, costs=costs, max_units=4)
      >>> found.makespan, found.proof  # seq1f1b takes 27
      (24, 'exhaustive')
    """
    sizes = {
        "num_ranks": num_ranks,
        "num_microbatches": num_microbatches,
        "num_chunks": num_chunks,
    }
    if max_units is None:
        max_units = _usual_units(sizes, stages_per_rank)
    problem = Problem(
        **sizes,
        costs=costs,
        max_units=max_units,
        stages_per_rank=stages_per_rank,
        split=split,
        machine=machine,
    )
    return _Search(problem, seed=seed).result()


def _usual_units(sizes: dict[str, int], stages_per_rank: int) -> int:
    if stages_per_rank <= 1:
        return max(peak_units(make_plan("seq1f1b", **sizes)))
    return max(peak_units(make_plan("seq1f1b-i", **sizes, stages_per_rank=stages_per_rank)))


class _Found(NamedTuple):
    """A plan and its makespan in the scaled time of the problem."""

    makespan: float
    plan: Plan
    origin: str


class _Search:
    """The stages of a search; each adds to what was found."""

    def __init__(self, problem: Problem, *, seed: int) -> None:
        self._problem, self._seed = problem, seed
        kinds = tuple(Exchange) if problem.stages_per_rank == 1 else exchanges(problem)
        self._timers = {exchange: OrderTimer(problem, exchange) for exchange in kinds}
        self._bound = lower_bound(problem)
        self._num_actions = problem.num_ranks * problem.units_per_rank * len(problem.ops)
        share = min(1.0, _USUAL / self._num_actions)
        self._width = max(16, int(_WIDTH * share))
        self._rounds = max(20, int(_ROUNDS * share**0.5))
        self._complete = False

    def result(self) -> SearchResult:
        """Run the stages until one gives a proof."""
        problem = self._problem
        best, proof = self._best()
        plan = replace(best.plan, name=SEARCH)
        validate(plan)
        makespan = simulate(plan, problem.costs, machine=problem.machine).makespan
        return SearchResult(
            plan=plan,
            makespan=makespan,
            lower_bound=min(self._bound, makespan),
            proof=proof,
            origin=best.origin,
            machine=problem.machine,
            max_units=problem.max_units,
            split=problem.split,
        )

    def _best(self) -> tuple[_Found, str]:
        found: list[_Found] = []
        for stage in (self._seeds, self._layers, self._whole, self._polish):
            found += stage(found)
            best = _fastest(found)
            if best.makespan <= self._bound * self._problem.scale * (1 + TOLERANCE):
                return best, "bound"
            if self._complete:
                return best, "exhaustive"
        return best, ""

    def _seeds(self, _: list[_Found]) -> Iterable[_Found]:
        known = seeds(self._problem)
        makespans = {}
        for exchange, timer in self._timers.items():  # all of one exchange at once
            plans = [seed.plan for seed in known if seed.plan.exchange is exchange]
            if plans:
                rows = np.stack([timer.rows(plan) for plan in plans])
                makespans[exchange] = iter(timer.makespans(rows))
        return [
            _Found(float(next(makespans[seed.plan.exchange])), seed.plan, seed.origin)
            for seed in known
        ]

    def _layers(self, _: list[_Found]) -> Iterable[_Found]:
        """Layers cut to a width. In ticks for any machine: what is good in one is in the others."""
        if self._num_actions > _LONG:
            return
        asynchronous = self._problem.machine == "asynchronous"
        problem = replace(self._problem, machine="executor") if asynchronous else self._problem
        streams = Streams(problem, by_chunk=False)
        first, *others = exchanges(problem)
        runs = [*product((first,), _HASTES), *product(others, _HASTES[-1:])]
        for exchange, haste in runs:
            explored = explore(
                Ticks(streams, exchange), incumbent=inf, width=self._width, haste=haste
            )
            yield from self._taken(explored, exchange)

    def _whole(self, found: list[_Found]) -> Iterable[_Found]:
        """All orders of the space, where they are few."""
        if self._num_actions > _TINY:
            return
        streams = Streams(self._problem, by_chunk=True)
        best, complete = _fastest(found).makespan, True
        for exchange in exchanges(self._problem):
            asynchronous = self._problem.machine == "asynchronous"
            explored = explore(
                Events(streams) if asynchronous else Ticks(streams, exchange),
                incumbent=best,
                width=_WHOLE_WIDTH,
                max_states=_WHOLE,
            )
            best, complete = explored.makespan, complete and explored.complete
            yield from self._taken(explored, exchange)
        self._complete = complete

    def _taken(self, explored: Exploration, exchange: Exchange) -> Iterable[_Found]:
        if explored.rows is not None:
            sizes = self._problem.sizes.values()
            V = self._problem.stages_per_rank
            plan = Plan(SEARCH, *sizes, explored.rows, stages_per_rank=V, exchange=exchange)
            timer = self._timers[exchange]
            yield _Found(float(timer.makespans(timer.rows(plan)[None])[0]), plan, SEARCH)

    def _polish(self, found: list[_Found]) -> Iterable[_Found]:
        """Small changes of the best orders, no two of the same time."""
        starts = {start.makespan: start for start in reversed(found)}
        for makespan in sorted(starts)[:_STARTS]:
            timer = self._timers[starts[makespan].plan.exchange]
            polished = polish(
                timer,
                timer.rows(starts[makespan].plan),
                goal=float(self._bound * self._problem.scale),
                num_rounds=self._rounds,
                seed=self._seed,
            )
            yield _Found(polished.makespan, timer.plan(polished.rows), SEARCH)


def _fastest(found: Iterable[_Found]) -> _Found:
    """The first of the fastest."""
    return min(found, key=lambda found: found.makespan)
