"""How long one plan takes at many costs: the executor of `simulate`, on arrays.

All costs go through the ticks side by side, each rank with its own clock under each of them. A test
holds it to `simulate`, which is slower and says when everything happens.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.exchange import PERIOD
from seq1f1b_jax.schedule.lowering.ticks import assign_ticks, num_ticks
from seq1f1b_jax.schedule.plan import Plan
from seq1f1b_jax.schedule.simulation.durations import Costs

Times = Mapping[Op, NDArray[np.float64]]
"""Time of every action by its operation, `[num_stages, num_chunks, num_costs]`."""


class Stopwatch:
    """The executor's step time of a plan, as a function of the times of its actions.

    Args:
      plan: a valid plan. Its ticks are assigned once.

    Attributes:
      plan: the same.

    Example:
      >>> import numpy as np
      >>> from seq1f1b_jax.schedule import Op, make_plan
      >>> plan = make_plan("seq1f1b", num_ranks=4, num_microbatches=4, num_chunks=2)
      >>> forward = np.ones((4, 2, 2))
      >>> forward[3, :, 1] = 2  # under the second costs the last stage's F takes longer
      >>> Stopwatch(plan)({Op.F: forward, Op.B: 2 * np.ones((4, 2, 2))})
      array([33., 41.])
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._ops = sorted({action.op for row in plan.ranks for action in row})
        ticks = assign_ticks(plan)
        self._num_cells = len(self._ops) * plan.num_stages * plan.num_chunks
        # cell of the times that a rank spends in a tick, before its exchange and after it
        self._cells = np.full((num_ticks(ticks), 2, plan.num_ranks), self._num_cells)
        for action, tick in ticks.items():
            cell = self._ops.index(action.op) * plan.num_stages + action.stage
            after = int(action.op is Op.W)
            self._cells[tick, after, plan.rank(action.stage)] = (
                cell * plan.num_chunks + action.chunk
            )
        self._acts = (self._cells < self._num_cells)[..., None]  # whether a rank does
        self._partners = [self._partners_of(tick) for tick in range(PERIOD)]

    def _partners_of(self, tick: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Ranks that each rank meets in a tick's exchange, or itself; and whether it has messages.

        Returns:
          `[at most 2, num_ranks]`, and `[num_ranks, 1]`.
        """
        plan = self.plan
        ring = plan.stages_per_rank > 1
        partners, meets = np.tile(np.arange(plan.num_ranks), (2, 1)), np.zeros(plan.num_ranks, bool)
        for source, destination in plan.exchange.pairs(tick, num_ranks=plan.num_ranks, ring=ring):
            partners[0, source], partners[1, destination] = destination, source
            meets[[source, destination]] = True
        return partners, meets[:, None]

    def __call__(
        self, times: Times, *, transfer: NDArray[np.float64] | float = 0.0
    ) -> NDArray[np.float64]:
        """Step times.

        Args:
          times: of every operation that the plan has.
          transfer: of a message, one for all costs or `[num_costs]`.

        Returns:
          `[num_costs]`, in the unit of the times.
        """
        num_costs = times[Op.F].shape[-1]
        spent = np.zeros((self._num_cells + 1, num_costs))  # the last one: no action
        spent[:-1] = np.concatenate([times[op].reshape(-1, num_costs) for op in self._ops])
        late = self.plan.exchange.late
        clocks, end = np.zeros((self.plan.num_ranks, num_costs)), np.zeros(num_costs)
        for tick, (sending, weights) in enumerate(self._cells):
            before, clocks = clocks, clocks + spent[sending]
            (first, second), meets = self._partners[(tick - late) % PERIOD]
            met = before if late else clocks
            met = np.maximum(met, np.maximum(met[first], met[second])) + meets * transfer
            end = np.maximum(end, np.where(self._acts[tick, 0], clocks, 0).max(axis=0))
            clocks = np.maximum(clocks, met) + spent[weights]
            end = np.maximum(end, np.where(self._acts[tick, 1], clocks, 0).max(axis=0))
        return end

    def step_time(self, costs: Costs) -> float:
        """Step time at one cost."""
        return float(self(times_of(costs, self.plan), transfer=float(costs.transfer))[0])


def times_of(costs: Costs, plan: Plan) -> dict[Op, NDArray[np.float64]]:
    """Costs as times of a stopwatch, `[num_stages, num_chunks, 1]`."""
    cost = costs.per_action(plan.num_stages, plan.num_chunks)
    stages, chunks = range(plan.num_stages), range(plan.num_chunks)
    return {
        op: np.array([[[cost(Action(op, s, 0, c))] for c in chunks] for s in stages], np.float64)
        for op in Op
    }
