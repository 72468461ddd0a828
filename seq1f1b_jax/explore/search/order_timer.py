"""Time many orders of one problem at once: the machines of `simulate` on arrays.

All orders go through the ticks side by side, each rank of each of them with its own clock. A tick
does what `assign_ticks` and the executor machine do, and a test holds the two to each other.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.explore.search.problem import Problem
from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.exchange import PERIOD, Exchange
from seq1f1b_jax.schedule.plan import Plan

_WEIGHTS, _NOTHING = PERIOD, PERIOD + 1  # beside the classes of ticks in which others may run


class _Tables(NamedTuple):
    """By action, the last entry standing for none. Actions are numbered rank by rank."""

    cost: NDArray[np.float64]
    tick_class: NDArray[np.int8]
    source: NDArray[np.int64]
    change: NDArray[np.int8]  # of the units held
    needs: NDArray[np.int64]  # pairs (action, what comes before it on its rank)


class OrderTimer:
    """A timer for orders of one problem.

    Args:
      problem: sizes, costs, cap and machine.
      exchange: pattern of the plans.

    Attributes:
      actions: of each rank; a row of numbers into it is an order.
      ops: index of each one's operation, `[num_ranks, actions per rank]`.
    """

    def __init__(self, problem: Problem, exchange: Exchange) -> None:
        self.problem, self.exchange = problem, exchange
        self.actions = tuple(problem.actions(rank) for rank in range(problem.num_ranks))
        self._length = len(self.actions[0])
        self.ops = np.array([[problem.ops.index(a.op) for a in row] for row in self.actions])
        self._number = {
            action: rank * self._length + i
            for rank, actions in enumerate(self.actions)
            for i, action in enumerate(actions)
        }
        self._tables = self._make_tables()
        self._exchange = TickExchange(problem, exchange)

    def rows(self, plan: Plan) -> NDArray[np.int64]:
        """Write a plan as numbers, `[num_ranks, actions per rank]`."""
        numbers = [[self._number[action] for action in row] for row in plan.ranks]
        return np.array(numbers) - self._first()

    def plan(self, rows: NDArray[np.int64]) -> Plan:
        """Inverse of `rows`."""
        problem = self.problem
        return Plan(
            "search",
            problem.num_ranks,
            problem.num_microbatches,
            problem.num_chunks,
            tuple(tuple(self.actions[p][i] for i in row) for p, row in enumerate(rows)),
            stages_per_rank=problem.stages_per_rank,
            exchange=self.exchange,
        )

    def makespans(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Time each order.

        Args:
          rows: orders, `[orders, num_ranks, actions per rank]`.

        Returns:
          Makespans in the scaled time of the problem; infinity for orders that no rank can run to
          the end or that hold too many units.
        """
        makespans = np.full(len(rows), np.inf)
        numbers = rows + self._first()
        fit = np.flatnonzero(self._in_order(numbers) & self._within_cap(numbers))
        if fit.size:
            run = self._events if self.problem.machine == "asynchronous" else self._ticks
            makespans[fit] = run(np.swapaxes(numbers[fit], 0, 1))
        return makespans

    def _first(self) -> NDArray[np.int64]:
        return (np.arange(self.problem.num_ranks) * self._length)[:, None]

    def _make_tables(self) -> _Tables:
        problem = self.problem
        everything = [action for actions in self.actions for action in actions]
        none = len(everything)

        def tick_class(action: Action) -> int:
            rank = action.stage % problem.num_ranks
            return _WEIGHTS if action.op is Op.W else self.exchange.tick_class(action.op, rank)

        def source(action: Action) -> int:
            sender = problem.source(action)
            return none if sender is None else self._number[sender]

        def change(action: Action) -> int:
            return (action.op is Op.F) - (action.op is problem.release_op)

        needs = [(self._number[a], self._number[n]) for a in everything for n in problem.needs(a)]
        return _Tables(
            cost=np.array([*map(problem.scaled_cost, everything), 0.0]),
            tick_class=np.array([*map(tick_class, everything), _NOTHING], np.int8),
            source=np.array([*map(source, everything), none]),
            change=np.array([*map(change, everything), 0], np.int8),
            needs=np.array(needs),
        )

    def _in_order(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether every rank's own row respects the needs within its stages."""
        flat = numbers.reshape(len(numbers), -1)
        positions = np.empty(flat.shape, np.int64)
        np.put_along_axis(positions, flat, np.arange(flat.shape[1])[None], 1)
        later, earlier = self._tables.needs.T
        return np.all(positions[:, later] > positions[:, earlier], axis=1)

    def _within_cap(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        held = np.cumsum(self._tables.change[numbers], axis=2, dtype=np.int64)
        return np.less_equal(held.max(axis=(1, 2)), self.problem.max_units)

    def _ticks(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Per tick the sending actions, the exchange, the `W`s, as in `simulate`."""
        rows = _Rows(numbers)
        cost, tick_class, source, *_ = self._tables
        done = np.zeros((rows.num_orders, len(cost)), bool)
        done[:, -1] = True
        clocks, makespans = np.zeros(rows.at.shape), np.zeros(rows.num_orders)
        tick = quiet = 0
        while quiet < PERIOD:
            heads, began = rows.heads(), clocks
            run = tick_class[heads] == tick % PERIOD
            run &= done[rows.orders, source[heads]]
            done[rows.orders, heads] |= run
            rows.at += run
            clocks = clocks + cost[heads] * run
            makespans = np.maximum(makespans, (clocks * run).max(0))
            clocks = self._exchange(clocks, began, tick)
            if self.problem.split:
                heads = rows.heads()
                weights = tick_class[heads] == _WEIGHTS
                rows.at += weights
                clocks += cost[heads] * weights
                makespans = np.maximum(makespans, (clocks * weights).max(0))
                run |= weights
            quiet = 0 if run.any() else quiet + 1
            tick += 1
        return np.where(rows.finished(), makespans, np.inf)

    def _events(self, numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Each rank runs its next action as soon as its message is there."""
        rows = _Rows(numbers)
        cost, _, source, *_ = self._tables
        ends = np.full((rows.num_orders, len(cost)), np.inf)
        ends[:, -1] = -np.inf  # who reads no message does not wait for one
        clocks = np.zeros(rows.at.shape)
        transfer = self.problem.scaled_transfer
        progress = True
        while progress:
            heads = rows.heads()
            arrival = ends[rows.orders, source[heads]] + transfer
            run = (arrival < np.inf) & (heads < len(cost) - 1)
            clocks = np.where(run, np.maximum(clocks, arrival) + cost[heads], clocks)
            ends[rows.orders, heads] = np.where(run, clocks, ends[rows.orders, heads])
            rows.at += run
            progress = run.any()
        return np.where(rows.finished(), clocks.max(0), np.inf)


class _Rows:
    """How far each rank of each order is in its row."""

    def __init__(self, numbers: NDArray[np.int64]) -> None:
        num_ranks, self.num_orders, self._length = numbers.shape
        end = np.full((num_ranks, self.num_orders, 1), num_ranks * self._length)
        self._flat = np.concatenate([numbers, end], 2).ravel()
        self._starts = np.arange(num_ranks * self.num_orders) * (self._length + 1)
        self._starts = self._starts.reshape(num_ranks, self.num_orders)
        self.at = np.zeros((num_ranks, self.num_orders), np.int64)
        self.orders = np.arange(self.num_orders)[None]

    def heads(self) -> NDArray[np.int64]:
        """The next action of each rank, `[num_ranks, orders]`."""
        return self._flat[self._starts + self.at]

    def finished(self) -> NDArray[np.bool_]:
        """Which orders ran to their end."""
        return (self.at == self._length).all(0)


class TickExchange:
    """What an exchange does to clocks, as in `simulate`.

    Args:
      problem: sizes, transfer time and machine.
      exchange: pattern of the plans.

    Attributes:
      late: whether a rank waits for those that it meets to have begun the tick, not to end it.
    """

    def __init__(self, problem: Problem, exchange: Exchange) -> None:
        self.late = exchange.late and problem.machine != "lock-step"
        self._transfer = problem.scaled_transfer
        self._meetings = [_meetings(problem, exchange, tick) for tick in range(PERIOD)]

    def __call__(
        self, clocks: NDArray[np.float64], began: NDArray[np.float64], tick: int
    ) -> NDArray[np.float64]:
        """Clocks after the exchange of a tick.

        Args:
          clocks: after the tick's actions, `[num_ranks, ...]`.
          began: before them.
          tick: only its remainder modulo `PERIOD` counts.
        """
        others, exchanges = self._meetings[(tick - self.late) % PERIOD]
        latest = (began if self.late else clocks)[others].max(1)
        return np.maximum(clocks, latest + self._transfer * exchanges if self._transfer else latest)


class _Meetings(NamedTuple):
    """Whom each rank waits for in a tick, and whether it exchanges at all."""

    others: NDArray[np.int64]  # [num_ranks, ranks], itself included
    exchanges: NDArray[np.bool_]  # [num_ranks, 1]


def _meetings(problem: Problem, exchange: Exchange, tick: int) -> _Meetings:
    """List the ranks that each one meets in a tick; on the lock-step machine all of them."""
    num_ranks = problem.num_ranks
    met: list[set[int]] = [{rank} for rank in range(num_ranks)]
    pairs = exchange.pairs(tick, num_ranks=num_ranks, ring=problem.stages_per_rank > 1)
    for source, destination in pairs:
        met[source].add(destination)
        met[destination].add(source)
    talking = {rank for pair in pairs for rank in pair}
    if problem.machine == "lock-step":
        met = [set(range(num_ranks))] * num_ranks
    most = max(map(len, met))
    others = [[*sorted(m), *[rank] * (most - len(m))] for rank, m in enumerate(met)]
    exchanges = [[rank in talking] for rank in range(num_ranks)]
    return _Meetings(np.array(others), np.array(exchanges))
