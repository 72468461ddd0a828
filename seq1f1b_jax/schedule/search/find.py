"""Skeleton of the search's front; the signatures are final."""

from dataclasses import dataclass
from typing import Any

from seq1f1b_jax.schedule.costs import Costs
from seq1f1b_jax.schedule.plan import Plan


@dataclass(frozen=True)
class SearchResult:
    """The best plan found, and how much better another could be at most.

    Attributes:
      plan: valid, named `search`.
      makespan: time of the plan on the machine, as `simulate` gives it.
      lower_bound: time below which no order within the cap can come.
      exact: whether no order of the search's space is faster.
      proof: `bound` (the makespan is the lower bound), `exhaustive` (all orders were considered),
        or empty where nothing is proven.
      origin: the named schedule whose order it is, or `search`.
      machine: that was minimised.
      max_units: units that any rank may hold at once.
      split: whether backwards are split into I and W.
      num_explored: states that were looked at.
    """

    plan: Plan
    makespan: Any
    lower_bound: Any
    exact: bool
    proof: str
    origin: str
    machine: str
    max_units: int
    split: bool
    num_explored: int


def find_plan(
    *,
    num_stages: int,
    num_microbatches: int,
    num_chunks: int,
    costs: Costs,
    max_units: int | None = None,
    num_virtual: int = 1,
    split: bool = False,
    machine: str = "executor",
    effort: int | None = None,
) -> SearchResult:
    """Find an order of work that takes little time and at most the given memory.

    Args:
      num_stages: ranks of the pipeline P.
      num_microbatches: sequence batches per step M.
      num_chunks: slices of each sequence C.
      costs: times of the actions.
      max_units: units that any rank may hold at once, as `peak_units` counts them; None: what
        `seq1f1b` (`seq1f1b-i` with virtual stages) takes on its fullest rank.
      num_virtual: virtual stages per rank.
      split: whether backwards are split into I and W.
      machine: one of `MACHINES`: whose time is minimised.
      effort: states kept per layer of the search; more finds better plans and takes longer. None:
        a default of seconds. The result is the same every time.

    Raises:
      ValueError: a size is below 1, the cap is below what any order needs, the machine is unknown,
        or the costs do not fit the sizes.
    """
    raise NotImplementedError
