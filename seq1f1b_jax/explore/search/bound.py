"""A time below which no order within the cap can come, on any machine.

Every bound is that of the asynchronous machine, which waits for true dependencies only; the others
can but be slower. Of one rank, with N its units and K how many it may hold at once:

    work      its first forward waits for the way down, after its last gradient comes the way up,
              and all its work is in between
    fill      before its first gradient arrives it has run forwards of at most K units; all other
              work comes after that
    drain     when its last forward ends, at most K units still wait for the end of their backward;
              after it come the way down from there and all the way up
    turnover  a unit is held from its forward to its backward, at least as long as the way down and
              back takes, and at most K are held at once: N such times over K

The way down and the way up are those of one microbatch through an empty pipeline.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import accumulate
from typing import Any

from seq1f1b_jax.explore.search.problem import Problem
from seq1f1b_jax.schedule.actions import Action, Op


def lower_bound(problem: Problem) -> Any:
    """Compute the largest bound of all ranks.

    Args:
      problem: sizes, costs and cap.

    Returns:
      A time, exact where the costs are integers or fractions.

    Example:
      >>> from seq1f1b_jax.schedule import Costs
      >>> from seq1f1b_jax.explore.search.bound import lower_bound
      >>> from seq1f1b_jax.explore.search.problem import Problem
      >>> costs = Costs(forward=1, backward=2)
      >>> lower_bound(Problem(4, 8, 1, costs, max_units=4))  # (M+P-1)(F+B): 1F1B is optimal
      33
    """
    ways = Ways(problem)
    bound = max(b for rank in range(problem.num_ranks) for b in _rank_bounds(problem, ways, rank))
    whole = isinstance(bound, Fraction) and bound.denominator == 1
    return int(bound) if whole else bound


class Ways:
    """Costs by `[stage][chunk]`, and the times of one microbatch in an empty pipeline."""

    def __init__(self, problem: Problem) -> None:
        num_ranks, num_chunks = problem.num_stages, problem.num_chunks
        self.transfer = problem.costs.transfer
        stages, chunks = range(num_ranks), range(num_chunks)

        def cost(op: Op) -> list[list[Any]]:
            return [[problem.cost(Action(op, s, 0, c)) for c in chunks] for s in stages]

        self.forward, self.gradient = cost(Op.F), cost(problem.gradient_op)
        self.weights = cost(Op.W) if problem.split else [[0] * num_chunks for _ in stages]
        # From the start of F(s,c) to the end of the last stage's last chunk.
        self.down = _chains(self.forward, self.transfer)
        # From the start of the last stage's first backward, that of its last chunk, to the end of
        # that of (s,c). The same chain, read the other way round.
        self.up = _chains(self.gradient, self.transfer)

    def first_forward(self, stage: int) -> Any:
        """Earliest start of the stage's first forward."""
        return sum(row[0] + self.transfer for row in self.forward[:stage])

    def first_gradient(self, stage: int) -> Any:
        """Earliest start of the stage's first backward, which is of a last chunk."""
        return self.down[0][0] + self.up[stage][-1] - self.gradient[stage][-1]

    def after_gradient(self, stage: int) -> Any:
        """From the end of the stage's last backward, which is of a first chunk, to the end."""
        way, longest = 0, self.weights[stage][0]
        for other in reversed(range(stage)):
            way += self.transfer + self.gradient[other][0]
            longest = max(longest, way + self.weights[other][0])
        return longest

    def after_forward(self, stage: int) -> Any:
        """From the end of the stage's last forward, which is of a last chunk, to the end."""
        way = self.down[stage][-1] - self.forward[stage][-1]
        return way + self.up[0][0] + self.weights[0][0]

    def held(self, stage: int, chunk: int) -> Any:
        """From the start of a unit's forward to the end of its backward."""
        there, back = self.down[stage][chunk], self.up[stage][chunk]
        return there + back + self.weights[stage][chunk]


def _chains(costs: list[list[Any]], transfer: Any) -> list[list[Any]]:
    """Longest chains from (stage, chunk) to the last stage's last chunk, with both ends."""
    longest = [list(row) for row in costs]
    for stage in reversed(range(len(costs))):
        for chunk in reversed(range(len(costs[0]))):
            later = [0]
            if stage + 1 < len(costs):
                later.append(longest[stage + 1][chunk] + transfer)
            if chunk + 1 < len(costs[0]):
                later.append(longest[stage][chunk + 1])
            longest[stage][chunk] += max(later)
    return longest


def _rank_bounds(problem: Problem, ways: Ways, rank: int) -> Iterator[Any]:
    stages = problem.stages(rank)
    cap = min(problem.max_units, problem.units_per_rank)

    def units(costs: list[list[Any]]) -> list[Any]:
        """Costs of all the rank's units, cheapest first."""
        return sorted(c for s in stages for c in costs[s] * problem.num_microbatches)

    def both() -> list[list[Any]]:
        pairs = zip(ways.gradient, ways.weights, strict=True)
        return [[g + w for g, w in zip(*rows, strict=True)] for rows in pairs]

    forwards, gradients, weights = map(units, (ways.forward, ways.gradient, ways.weights))
    begin = ways.first_forward(rank)
    fill = min(ways.first_gradient(stage) for stage in stages)
    end = min(ways.after_gradient(stage) for stage in stages)
    # Once the last gradient is sent, at most `cap` weight halves are left.
    early_weights = sum(weights[: len(weights) - cap])
    filled = min(fill - begin, sum(forwards[len(forwards) - cap :]))
    after_fill = fill + sum(forwards) - filled + sum(gradients)
    yield after_fill + sum(weights)
    yield after_fill + early_weights + end
    drained = begin + sum(forwards)  # the last forward ends here at the earliest
    if cap < problem.units_per_rank:
        drained = max(drained, fill + sum(forwards) - filled)
    early_releases = sum(units(both())[: len(forwards) - cap])
    drain = min(ways.after_forward(stage) for stage in stages)
    yield drained + early_releases + drain
    held = [ways.held(s, c) for s in stages for c in range(problem.num_chunks)]
    yield (
        begin
        + _turnover(problem, forwards, units(both()), held, cap)
        + (0 if problem.split else end)
    )


def _turnover(problem: Problem, forwards: list, releases: list, held: list, cap: int) -> Any:
    """Time in which the rank holds units, if it held `cap` of them at all times it can.

    It holds j units only after j-1 forwards, and after it held j for the last time come j-1
    releases; both one after another.
    """
    area = problem.num_microbatches * sum(held)
    area += sum(accumulate(forwards[: cap - 1])) + sum(accumulate(releases[: cap - 1]))
    return area / cap if isinstance(area, float) else Fraction(area) / cap
