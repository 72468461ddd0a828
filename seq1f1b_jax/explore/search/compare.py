"""How far the named schedules are from the best plan found."""

from dataclasses import dataclass
from typing import Any

from seq1f1b_jax.explore.search.find import SearchResult
from seq1f1b_jax.explore.search.problem import Problem
from seq1f1b_jax.explore.search.seeds import is_split, named_plans
from seq1f1b_jax.schedule.plan import Plan, peak_units
from seq1f1b_jax.schedule.simulation.durations import Costs
from seq1f1b_jax.schedule.simulation.simulate import simulate


@dataclass(frozen=True)
class Comparison:
    """A named schedule beside the best plan found.

    Attributes:
      name: of the schedule; `search` for the plan found.
      makespan: on the same machine.
      peak_units: on the fullest rank.
      over_best: makespan over that of the plan found; below 1 only where the schedule takes more
        memory than the cap, or splits its backwards and the search did not, or the other way round.
      within_cap: whether its peak is within the cap.
      split: whether its backwards are split.
    """

    name: str
    makespan: Any
    peak_units: int
    over_best: float
    within_cap: bool
    split: bool


def compare_named(result: SearchResult, costs: Costs) -> tuple[Comparison, ...]:
    """Time every schedule of the registry that exists at the sizes of a result.

    With one stage per rank those are the schedules that do not interleave, with them those that do:
    the costs belong to a number of stages.

    Args:
      result: of `find_plan`.
      costs: those that the search was given.

    Returns:
      The plan found, then the schedules, the fastest first.

    Example:
      >>> from seq1f1b_jax.schedule import Costs
      >>> from seq1f1b_jax.explore.search import compare_named, find_plan
      >>> sizes = {"num_ranks": 4, "num_microbatches": 8, "num_chunks": 2}
      >>> costs = Costs(forward=1, backward=2)
      >>> rows = compare_named(find_plan(**sizes, costs=costs, max_units=5), costs)
      >>> [(row.name, row.makespan, row.peak_units) for row in rows[:3]]
      [('search', 57, 5), ('seq-zb-h1', 51, 5), ('terapipe', 57, 16)]
    """
    problem = Problem(
        result.plan.num_ranks,
        result.plan.num_microbatches,
        result.plan.num_chunks,
        costs,
        result.max_units,
        stages_per_rank=result.plan.stages_per_rank,
    )
    named = [_compare(plan, costs, result) for plan in named_plans(problem)]
    named.sort(key=lambda row: row.makespan)
    return (_compare(result.plan, costs, result), *named)


def _compare(plan: Plan, costs: Costs, result: SearchResult) -> Comparison:
    makespan = simulate(plan, costs, machine=result.machine).makespan
    peak = max(peak_units(plan))
    return Comparison(
        name=plan.name,
        makespan=makespan,
        peak_units=peak,
        over_best=float(makespan / result.makespan) if result.makespan else 1.0,
        within_cap=peak <= result.max_units,
        split=is_split(plan),
    )


def draw_comparison(rows: tuple[Comparison, ...]) -> str:
    """Write a comparison as a table of text.

    Args:
      rows: of `compare_named`, the plan found first.
    """
    found = rows[0]
    lines = [f"{'schedule':<18}{'time':>10}{'over search':>13}{'units':>7}"]
    for row in rows:
        notes = ["over the cap"] * (not row.within_cap)
        if row.split != found.split:
            notes.append("I and W" if row.split else "whole B")
        time = f"{float(row.makespan):>10.6g}"
        line = f"{row.name:<18}{time}{row.over_best:>13.3f}{row.peak_units:>7}"
        lines.append(f"{line}  {', '.join(notes)}".rstrip())
    return "\n".join(lines)
