"""How long a plan takes, on three machines.

    asynchronous   a rank starts an action once its previous one and all dependencies are over, and
                   waits for nothing else: the time that the order of work allows
    executor       what our scan does: per tick at most one sending action, then the exchange, in
                   which a rank waits for the ranks it swaps messages with, then at most one `W`.
                   Where messages travel late, beside the next tick's action, a rank waits for
                   those ranks to have begun that tick
    lock-step      the same with a barrier over all ranks in every exchange

On the asynchronous machine a message takes the transfer time; on the others every exchange that a
rank takes part in does.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.dependencies import (
    dependencies,
    execution_order,
    message_source,
)
from seq1f1b_jax.schedule.grid import Cell, draw
from seq1f1b_jax.schedule.lowering.ticks import assign_ticks, num_ticks
from seq1f1b_jax.schedule.plan import Plan
from seq1f1b_jax.schedule.simulation.durations import Costs

MACHINES = ("asynchronous", "executor", "lock-step")


@dataclass(frozen=True)
class Simulation:
    """A plan run on a clock. Times are in the unit of the costs, and exact where the costs are.

    Attributes:
      machine: one of `MACHINES`.
      num_ranks: ranks of the pipeline.
      num_chunks: slices of each sequence.
      starts: when each action starts.
      ends: when each action ends.
      causes: for each action the one whose end it waited for, None where it started at once.
    """

    machine: str
    num_ranks: int
    num_chunks: int
    starts: Mapping[Action, Any]
    ends: Mapping[Action, Any]
    causes: Mapping[Action, Action | None]

    @property
    def makespan(self) -> Any:
        """Time from the first start to the last end."""
        return max(self.ends.values())

    @property
    def busy(self) -> tuple[Any, ...]:
        """Time each rank computes."""
        busy = [0] * self.num_ranks
        for action, end in self.ends.items():
            busy[action.stage % self.num_ranks] += end - self.starts[action]
        return tuple(busy)

    @property
    def idle(self) -> tuple[Any, ...]:
        """Time each rank waits, before its first action and after its last one too."""
        return tuple(self.makespan - busy for busy in self.busy)

    @property
    def bubble(self) -> Any:
        """Time by which the step exceeds the work of its busiest rank."""
        return self.makespan - max(self.busy)

    @property
    def bubble_fraction(self) -> float:
        """Share of all ranks' time that is spent waiting."""
        return float(sum(self.idle) / (self.num_ranks * self.makespan))

    @property
    def critical_path(self) -> tuple[Action, ...]:
        """Actions, first to last, each of which started when the one before it ended.

        Together with the transfers between them they take the whole step: only a faster one of
        these makes the step faster.
        """
        action = max(self.ends, key=lambda a: self.ends[a])
        path = [action]
        while (cause := self.causes[path[-1]]) is not None:
            path.append(cause)
        return tuple(reversed(path))


def simulate(plan: Plan, costs: Costs, *, machine: str = "asynchronous") -> Simulation:
    """Run a valid plan on a clock.

    Args:
      plan: a valid plan.
      costs: times of the actions. Integers and fractions are kept exact.
      machine: one of `MACHINES`, see above.

    Returns:
      The times of every action. For named schedules and equal costs the executor's makespan is the
      asynchronous one.

    Raises:
      ValueError: the machine is unknown, or a cost does not broadcast to
        `[num_stages, num_chunks]`.

    Example:
      >>> from seq1f1b_jax.schedule import Costs, make_plan, simulate
      >>> plan = make_plan("seq1f1b", num_ranks=4, num_microbatches=4, num_chunks=2)
      >>> simulate(plan, Costs(forward=1, backward=2)).bubble  # (P-1)(F+B)
      9
    """
    if machine not in MACHINES:
        raise ValueError(f"machine={machine!r} is unknown; use one of {', '.join(MACHINES)}")
    log = _Log(plan, costs)
    if machine == "asynchronous":
        _run_asynchronously(log)
    else:
        _run_ticks(log, barrier=machine == "lock-step")
    return Simulation(machine, plan.num_ranks, plan.num_chunks, log.starts, log.ends, log.causes)


class _Log:
    """What a machine writes down while it runs a plan."""

    def __init__(self, plan: Plan, costs: Costs) -> None:
        self.plan, self.transfer = plan, costs.transfer
        self.cost = costs.per_action(plan.num_stages, plan.num_chunks)
        self.starts: dict[Action, Any] = {}
        self.ends: dict[Action, Any] = {}
        self.causes: dict[Action, Action | None] = {}

    def run(self, action: Action, clock: "_Clock") -> "_Clock":
        """Run an action on a rank whose clock is at its start."""
        self.starts[action], self.causes[action] = clock.time, clock.cause
        self.ends[action] = clock.time + self.cost(action)
        return _Clock(self.ends[action], action)


class _Clock(NamedTuple):
    """A rank's time, and the action whose end set it."""

    time: Any
    cause: Action | None


def _run_asynchronously(log: _Log) -> None:
    """`start = max(end of the previous, ends of dependencies, messages with their transfer)`."""
    plan = log.plan
    done: dict[Action, _Clock] = {}  # by event
    clocks = [_Clock(0, None)] * plan.num_ranks
    for action in execution_order(plan):
        rank = plan.rank(action.stage)
        source = message_source(action, num_stages=plan.num_stages)
        ready = clocks[rank]
        for event in dependencies(action, plan):
            time, cause = done[event]
            arrival = _Clock(time + log.transfer if event == source else time, cause)
            ready = max(ready, arrival, key=lambda clock: clock.time)
        clocks[rank] = done[action.event] = log.run(action, ready)


def _run_ticks(log: _Log, *, barrier: bool) -> None:
    """Per tick the sending actions, the exchange, the `W`s."""
    plan = log.plan
    sending: dict[int, list[Action]] = defaultdict(list)
    weights: dict[int, list[Action]] = defaultdict(list)
    ticks = assign_ticks(plan)
    for action, tick in ticks.items():
        (weights if action.op is Op.W else sending)[tick].append(action)
    clocks = [_Clock(0, None)] * plan.num_ranks
    late = plan.exchange.late and not barrier
    for tick in range(num_ticks(ticks)):
        before, clocks = clocks, list(clocks)
        for action in sending[tick]:
            clocks[plan.rank(action.stage)] = log.run(action, clocks[plan.rank(action.stage)])
        met = _exchange(
            before if late else clocks, plan, tick - late, transfer=log.transfer, barrier=barrier
        )
        clocks = [max(both, key=lambda c: c.time) for both in zip(clocks, met, strict=True)]
        for action in weights[tick]:
            clocks[plan.rank(action.stage)] = log.run(action, clocks[plan.rank(action.stage)])


def _exchange(
    clocks: list[_Clock], plan: Plan, tick: int, *, transfer: Any, barrier: bool
) -> list[_Clock]:
    """Clocks after a tick's messages: each rank's is the latest of those it meets."""
    meets: dict[int, list[int]] = {rank: [rank] for rank in range(plan.num_ranks)}
    ring = plan.stages_per_rank > 1
    for source, destination in plan.exchange.pairs(tick, num_ranks=plan.num_ranks, ring=ring):
        meets[source].append(destination)
        meets[destination].append(source)
    everybody = list(range(plan.num_ranks))
    after = []
    for others in meets.values():
        # a rank's own clock comes first, so it wins where times are equal
        met = [clocks[other] for other in (others[:1] + everybody if barrier else others)]
        latest = max(met, key=lambda clock: clock.time)
        after.append(_Clock(latest.time + (transfer if len(others) > 1 else 0), latest.cause))
    return after


def draw_simulation(
    simulation: Simulation, *, column: Any = 1, max_width: int | None = None
) -> str:
    """Draw a simulation with one column per unit of time.

    Args:
      simulation: whose times are all multiples of `column`.
      column: time of one column.
      max_width: letters that a line may have, see `grid.draw`. None: any.

    Raises:
      ValueError: a time is not a multiple of `column`.

    Example:
      >>> from seq1f1b_jax.schedule import Costs, draw_simulation, make_plan, simulate
      >>> plan = make_plan("1f1b", num_ranks=2, num_microbatches=2, num_chunks=1)
      >>> print(draw_simulation(simulate(plan, Costs(forward=1, backward=2))))
      rank 0  F0.0 F1.0 .... .... B0.0----- .... B1.0-----
      rank 1  .... F0.0 B0.0----- F1.0 B1.0----- .... ....
    """
    rows: list[list[Cell]] = [[] for _ in range(simulation.num_ranks)]
    for action, start in simulation.starts.items():
        rank = action.stage % simulation.num_ranks
        first, last = start / column, simulation.ends[action] / column
        if first != int(first) or last != int(last):
            raise ValueError(
                f"{action.text(rank)} runs from {start} to {simulation.ends[action]}, not a"
                f" multiple of column={column}; choose a common divisor of the costs"
            )
        rows[rank].append(Cell(action.text(rank), int(first), int(last) - int(first)))
    num_columns = int(np.ceil(float(simulation.makespan / column)))
    return draw(rows, num_columns=num_columns, max_width=max_width)
