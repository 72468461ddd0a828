"""One layer of the search is one tick: every rank runs an action or lets the tick pass.

`assign_ticks` gives an action the first tick that it can have, so not every way to let ticks pass
is a plan's: what could have run in a tick and did not is refused until the rank has run something
else.
Likewise a `W` runs in the tick of the action before it, or in the one after another `W`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.explore.search.layers import NONE, Limit, take
from seq1f1b_jax.explore.search.order_timer import TickExchange
from seq1f1b_jax.explore.search.streams import Streams
from seq1f1b_jax.schedule.actions import Op
from seq1f1b_jax.schedule.exchange import PERIOD, Exchange


class TickLayer(NamedTuple):
    """States between two ticks, one row each."""

    counts: NDArray[np.int16]  # [states, streams], actions that have run
    clocks: NDArray[np.float64]  # [states, ranks]
    began: NDArray[np.float64]  # [states, ranks], clocks at the start of this tick
    last: NDArray[np.float64]  # [states], the latest end
    refused: NDArray[np.bool_]  # [states, streams]
    sent: NDArray[np.int16]  # [states, streams], actions that had run before this tick
    ran: NDArray[np.bool_]  # [states, ranks], what sends ran in this tick, and no W may yet
    weighed: NDArray[np.bool_]  # [states, ranks], a W ran in this tick
    parent: NDArray[np.int64]  # [states]
    choice: NDArray[np.int16]  # [states, 2 * ranks], what sends, then the Ws


class Ticks:
    """The executor and the lock-step machine, tick by tick.

    Args:
      streams: of the search.
      exchange: pattern of the plans.
    """

    def __init__(self, streams: Streams, exchange: Exchange) -> None:
        self.streams, self._problem = streams, streams.problem
        self._ranks = range(streams.problem.num_ranks)
        self._exchange = TickExchange(self._problem, exchange)
        self._weights = np.array([stream.op is Op.W for stream in streams.streams])
        gradient = self._problem.gradient_op
        self._of_class = [  # by class of ticks and rank
            [
                [
                    s
                    for op in (Op.F, gradient)
                    if exchange.tick_class(op, rank) == tick_class
                    for s in streams.of(rank, op)
                ]
                for rank in self._ranks
            ]
            for tick_class in range(PERIOD)
        ]

    def start(self) -> TickLayer:
        """Nothing has run."""
        num_ranks, num_streams = len(self._ranks), len(self.streams.lengths)
        nothing = np.zeros((1, num_streams), np.int16)
        return TickLayer(
            counts=nothing,
            clocks=np.zeros((1, num_ranks)),
            began=np.zeros((1, num_ranks)),
            last=np.zeros(1),
            refused=np.zeros((1, num_streams), bool),
            sent=nothing,
            ran=np.zeros((1, num_ranks), bool),
            weighed=np.zeros((1, num_ranks), bool),
            parent=np.zeros(1, np.int64),
            choice=np.full((1, 2 * num_ranks), NONE, np.int16),
        )

    def identity(self, state: TickLayer) -> NDArray[np.uint8]:
        """What has run, and what may not run next."""
        parts = (state.counts, state.refused, state.weighed)
        return np.concatenate([np.ascontiguousarray(part).view(np.uint8) for part in parts], 1)

    def times(self, state: TickLayer) -> NDArray[np.float64]:
        """All clocks, those that an exchange still reads, and the latest end."""
        began = [state.began] * self._exchange.late
        return np.concatenate([state.clocks, *began, state.last[:, None]], 1)

    def bounds(self, state: TickLayer) -> NDArray[np.float64]:
        """Lower bounds, knowing what may not run next."""
        may_weigh = (state.ran | state.weighed)[:, self.streams.ranks]
        barred = np.where(self._weights, ~may_weigh, state.refused)
        return self.streams.bounds(state.counts, state.clocks, barred)

    def makespans(self, state: TickLayer) -> NDArray[np.float64]:
        """The latest end."""
        return state.last

    def step(self, state: TickLayer, layer: int, limit: Limit) -> TickLayer:
        """Per tick the sending actions, the exchange, the `W`s."""
        tick = layer % PERIOD
        state = state._replace(
            began=state.clocks.copy(),
            sent=state.counts.copy(),
            ran=np.zeros_like(state.ran),
            parent=np.arange(len(state.counts)),
            choice=np.full_like(state.choice, NONE),
        )
        for rank in self._ranks:
            state = limit(self._send(state, rank, self._of_class[tick][rank]))
        clocks = self._exchange(state.clocks.T, state.began.T, tick)
        state = state._replace(clocks=np.ascontiguousarray(clocks.T))
        state = state._replace(began=state.clocks.copy())  # read, and the Ws do not read it
        if self._problem.split:
            for rank in self._ranks:
                state = limit(self._weigh(state, rank))
        return state._replace(ran=np.zeros_like(state.ran))

    def _send(self, state: TickLayer, rank: int, streams: list[int]) -> TickLayer:
        ready = {s: self.streams.ready(s, state.counts, state.sent) for s in streams}
        options = {s: mask & ~state.refused[:, s] for s, mask in ready.items()}
        num_states = len(state.counts)
        state, chosen = _branch(state, options)
        for stream, mask in ready.items():
            state.refused[:num_states, stream] |= mask
        state.ran[:, rank] = chosen != NONE
        return self._run(state, rank, chosen, column=rank)

    def _weigh(self, state: TickLayer, rank: int) -> TickLayer:
        may = state.ran[:, rank] | state.weighed[:, rank]
        streams = self.streams.of(rank, Op.W)
        options = {s: may & self.streams.ready(s, state.counts, state.sent) for s in streams}
        state, chosen = _branch(state, options)
        state.weighed[:, rank] = chosen != NONE
        state.ran[:, rank] = False
        return self._run(state, rank, chosen, column=len(self._ranks) + rank)

    def _run(
        self, state: TickLayer, rank: int, chosen: NDArray[np.int16], *, column: int
    ) -> TickLayer:
        """Run the chosen streams' next actions, in place."""
        rows = np.flatnonzero(chosen != NONE)
        streams = chosen[rows]
        state.clocks[rows, rank] += self.streams.costs[streams, state.counts[rows, streams]]
        state.last[rows] = np.maximum(state.last[rows], state.clocks[rows, rank])
        state.counts[rows, streams] += 1
        state.refused[rows[:, None], self.streams.of(rank)] = False
        state.choice[:, column] = chosen
        return state


def _branch(
    state: TickLayer, options: dict[int, NDArray[np.bool_]]
) -> tuple[TickLayer, NDArray[np.int16]]:
    """Every state once as it is, then once for each stream that it may run; and which one it is."""
    rows = [np.arange(len(state.counts)), *map(np.flatnonzero, options.values())]
    chosen = np.repeat(np.array([NONE, *options], np.int16), [len(r) for r in rows])
    return take(state, np.concatenate(rows)), chosen
