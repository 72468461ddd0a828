"""One plan under many costs or cuts at once: what a search over chunk lengths asks for.

Ticks and units in flight depend on the plan alone, so they are worked out once. The slow twins are
`simulate` on the executor's machine, and `lengths.peak_tokens`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.schedule.actions import Op
from seq1f1b_jax.schedule.plan import Plan
from seq1f1b_jax.schedule.simulation.durations import Costs
from seq1f1b_jax.schedule.simulation.makespans import Stopwatch, times_of

LIVE = {Op.F: 1, Op.B: -1, Op.I: 0, Op.W: -1}
"""Units whose residuals an action leaves, or frees."""


class Timetable:
    """The ticks of a plan, and how many units of each chunk are in flight when.

    Args:
      plan: a valid plan.

    Example:
      >>> from seq1f1b_jax.schedule import Costs, make_plan
      >>> plan = make_plan("seq1f1b", num_ranks=4, num_microbatches=4, num_chunks=2)
      >>> table = Timetable(plan)
      >>> table.makespans([Costs(forward=1, backward=2), Costs(forward=2, backward=2)]).tolist()
      [33.0, 44.0]
      >>> table.peak_tokens([(6, 2), (4, 4)]).tolist()
      [22, 20]
    """

    def __init__(self, plan: Plan) -> None:
        self._stopwatch = Stopwatch(plan)
        counts = []
        for row in plan.ranks:
            change = np.zeros((len(row), plan.num_chunks), np.int64)
            for index, action in enumerate(row):
                change[index, action.chunk] = LIVE[action.op]
            counts.append(change.cumsum(axis=0))
        self._live = np.unique(np.concatenate(counts), axis=0)

    def peak_tokens(self, lengths: Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Tokens whose residuals the fullest rank holds at its fullest moment, for each cut.

        Args:
          lengths: tokens of each chunk, of every cut.
        """
        return (self._live @ np.asarray(lengths, np.int64).T).max(axis=0)

    def makespans(self, costs: Sequence[Costs]) -> NDArray[np.float64]:
        """Time of a step on the executor's machine, for each of the costs."""
        each = [times_of(cost, self._stopwatch.plan) for cost in costs]
        times = {op: np.concatenate([one[op] for one in each], axis=2) for op in each[0]}
        return self._stopwatch(times, transfer=np.array([float(c.transfer) for c in costs]))
