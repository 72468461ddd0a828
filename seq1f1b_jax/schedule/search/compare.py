"""How far the named schedules are from the best plan found."""

from dataclasses import dataclass
from typing import Any

from seq1f1b_jax.schedule.costs import Costs
from seq1f1b_jax.schedule.search.find import SearchResult


@dataclass(frozen=True)
class Comparison:
    """A named schedule beside the best plan found.

    Attributes:
      name: of the schedule; `search` for the plan found, which stands first.
      makespan: on the same machine.
      peak_units: on the fullest rank.
      over_best: makespan over that of the plan found; below 1 only where the schedule takes more
        memory than the cap, or splits backwards and the search did not.
      within_cap: whether its peak is within the cap.
    """

    name: str
    makespan: Any
    peak_units: int
    over_best: float
    within_cap: bool


def compare_named(result: SearchResult, costs: Costs) -> tuple[Comparison, ...]:
    """Time every schedule of the registry that exists at the sizes of a search's result.

    Args:
      result: of `find_plan`.
      costs: those that the search was given.

    Returns:
      The plan found, then the schedules, fastest first.
    """
    raise NotImplementedError


def draw_comparison(rows: tuple[Comparison, ...]) -> str:
    """Write a comparison as a table of text."""
    raise NotImplementedError
