"""How long a plan takes when every rank waits for what it needs and for nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.dependencies import dependencies, execution_order
from seq1f1b_jax.schedule.grid import Cell, draw
from seq1f1b_jax.schedule.plan import Plan
from seq1f1b_jax.schedule.table import BACKWARD, FORWARD, TickTable

Cost: TypeAlias = ArrayLike | Fraction
"""One time for all, or an array that broadcasts to `[num_stages, num_chunks]`."""


@dataclass(frozen=True)
class Simulation:
    """A plan run on a clock. Times are in the unit of the costs, and exact where the costs are.

    Attributes:
      starts: when each action starts.
      ends: when each action ends.
      busy: time each rank computes.
    """

    starts: Mapping[Action, Any]
    ends: Mapping[Action, Any]
    busy: tuple[Any, ...]

    @property
    def makespan(self) -> Any:
        """Time from the first start to the last end."""
        return max(self.ends.values())

    @property
    def bubble(self) -> Any:
        """Time by which the step exceeds the work of its busiest rank."""
        return self.makespan - max(self.busy)

    @property
    def bubble_fraction(self) -> float:
        """Share of all ranks' time that is spent waiting."""
        return 1 - float(sum(self.busy) / (len(self.busy) * self.makespan))


def simulate(plan: Plan, forward_cost: Cost, backward_cost: Cost) -> Simulation:
    """Run a valid plan asynchronously; messages take no time.

    A rank starts an action once its previous one and all dependencies have ended:
    `start = max(end of the previous, ends of the dependencies)`.

    Args:
      plan: a valid plan.
      forward_cost: time of a forward, `[num_stages, num_chunks]` or anything that broadcasts to it.
        Integers and fractions are kept exact.
      backward_cost: time of a backward, likewise.

    Returns:
      The times of every action.

    Raises:
      ValueError: a cost does not broadcast to `[num_stages, num_chunks]`.

    Example:
      >>> plan = make_plan("seq1f1b", num_stages=4, num_microbatches=4, num_chunks=2)
      >>> simulate(plan, forward_cost=1, backward_cost=2).bubble  # (P-1)(F+B)
      9
    """
    costs = {
        Op.F: _per_stage_and_chunk(forward_cost, plan.num_stages, plan.num_chunks),
        Op.B: _per_stage_and_chunk(backward_cost, plan.num_stages, plan.num_chunks),
    }
    starts: dict[Action, Any] = {}
    ends: dict[Action, Any] = {}
    clocks: list[Any] = [0] * plan.num_stages
    busy: list[Any] = [0] * plan.num_stages
    for action in execution_order(plan):
        rank = action.stage
        cost = costs[action.op][rank][action.chunk]
        starts[action] = max(
            [clocks[rank], *(ends[needed] for needed in dependencies(action, plan))]
        )
        clocks[rank] = ends[action] = starts[action] + cost
        busy[rank] += cost
    return Simulation(starts, ends, tuple(busy))


def simulate_table(table: TickTable, forward_cost: Cost, backward_cost: Cost) -> Any:
    """Time a tick table under its exchange by parity: the two ranks of a pair wait for each other.

    Args:
      table: a lowered plan.
      forward_cost: time of a forward, as for `simulate`.
      backward_cost: time of a backward, likewise.

    Returns:
      The time of the last rank to finish, in the unit of the costs. For equal costs it is the
      makespan of `simulate`.
    """
    sizes = table.num_stages, table.num_chunks
    costs = {
        FORWARD: _per_stage_and_chunk(forward_cost, *sizes),
        BACKWARD: _per_stage_and_chunk(backward_cost, *sizes),
    }
    ops, chunks = table.op.tolist(), table.chunk.tolist()
    clocks: list[Any] = [0] * table.num_stages
    for tick in range(table.num_ticks):
        for rank in range(table.num_stages):
            if ops[tick][rank] in costs:
                clocks[rank] += costs[ops[tick][rank]][rank][chunks[tick][rank]]
        for rank in range(tick % 2, table.num_stages - 1, 2):
            clocks[rank] = clocks[rank + 1] = max(clocks[rank], clocks[rank + 1])
    return max(clocks)


def _per_stage_and_chunk(cost: Cost, num_stages: int, num_chunks: int) -> list[list[Any]]:
    """Costs as nested lists of Python numbers, so that integers and fractions stay exact."""
    try:
        return np.broadcast_to(np.asarray(cost), (num_stages, num_chunks)).tolist()
    except ValueError as error:
        raise ValueError(
            f"a cost of shape {np.asarray(cost).shape} does not fit num_stages={num_stages} and"
            f" num_chunks={num_chunks}; give one number, or an array [num_stages, num_chunks]"
        ) from error


def draw_simulation(simulation: Simulation, *, column: Any = 1) -> str:
    """Draw a simulation with one column per unit of time.

    Args:
      simulation: whose times are all multiples of `column`.
      column: time of one column.

    Raises:
      ValueError: a time is not a multiple of `column`.

    Example:
      >>> plan = make_plan("1f1b", num_stages=2, num_microbatches=2, num_chunks=1)
      >>> print(draw_simulation(simulate(plan, 1, 2)))
      rank 0  F0.0 F1.0 .... .... B0.0----- .... B1.0-----
      rank 1  .... F0.0 B0.0----- F1.0 B1.0----- .... ....
    """
    rows: list[list[Cell]] = [[] for _ in simulation.busy]
    for action, start in simulation.starts.items():
        first, last = start / column, simulation.ends[action] / column
        if first != int(first) or last != int(last):
            raise ValueError(
                f"{action.text(action.stage)} runs from {start} to {simulation.ends[action]}, not a"
                f" multiple of column={column}; choose a common divisor of the costs"
            )
        cell = Cell(action.text(action.stage), int(first), int(last) - int(first))
        rows[action.stage].append(cell)
    return draw(rows, num_columns=int(simulation.makespan / column))
