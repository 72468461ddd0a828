"""One layer of the search is one action: some rank, in any order, runs its next one.

On the asynchronous machine an action starts when its rank and its message are ready, so the order
in which ranks take turns in the search changes no time: it only leads to the same states.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.explore.search.layers import NONE, Limit
from seq1f1b_jax.explore.search.streams import Streams


class EventLayer(NamedTuple):
    """States after the same number of actions, one row each."""

    counts: NDArray[np.int16]  # [states, streams], actions that have run
    clocks: NDArray[np.float64]  # [states, ranks]
    ends: NDArray[np.float64]  # [states, streams, actions]
    parent: NDArray[np.int64]  # [states]
    choice: NDArray[np.int16]  # [states, 1]


class Events:
    """The asynchronous machine, action by action.

    Args:
      streams: of the search.
    """

    def __init__(self, streams: Streams) -> None:
        self.streams = streams
        read = [(s.source, i) for i, s in enumerate(streams.streams) if s.source is not None]
        self._sources, self._readers = np.array(read, int).reshape(-1, 2).T

    def start(self) -> EventLayer:
        """Nothing has run."""
        num_streams = len(self.streams.lengths)
        return EventLayer(
            counts=np.zeros((1, num_streams), np.int16),
            clocks=np.zeros((1, self.streams.problem.num_ranks)),
            ends=np.zeros((1, num_streams, self.streams.lengths.max())),
            parent=np.zeros(1, np.int64),
            choice=np.full((1, 1), NONE, np.int16),
        )

    def identity(self, state: EventLayer) -> NDArray[np.uint8]:
        """What has run."""
        return np.ascontiguousarray(state.counts).view(np.uint8)

    def times(self, state: EventLayer) -> NDArray[np.float64]:
        """All clocks, and the ends of what has been sent and not been read."""
        position = np.arange(state.ends.shape[2])
        unread = position >= state.counts[:, self._readers, None]
        waiting = np.where(unread, state.ends[:, self._sources], 0)
        size = len(self._sources) * len(position)
        return np.concatenate([state.clocks, waiting.reshape(len(waiting), size)], 1)

    def bounds(self, state: EventLayer) -> NDArray[np.float64]:
        """Lower bounds."""
        return self.streams.bounds(state.counts, state.clocks, np.zeros(state.counts.shape, bool))

    def makespans(self, state: EventLayer) -> NDArray[np.float64]:
        """The latest end."""
        return state.clocks.max(1)

    def step(self, state: EventLayer, layer: int, limit: Limit) -> EventLayer:
        """Each state once for each stream whose next action may run."""
        parts = [self._run(state, stream) for stream in range(len(self.streams.lengths))]
        return limit(EventLayer(*map(np.concatenate, zip(*parts, strict=True))))

    def _run(self, state: EventLayer, stream: int) -> EventLayer:
        rows = np.flatnonzero(self.streams.ready(stream, state.counts, state.counts))
        counts, clocks, ends = (array[rows] for array in state[:3])
        this, every = self.streams.streams[stream], np.arange(len(rows))
        position = counts[:, stream].copy()
        start = clocks[:, this.rank]
        if this.source is not None:
            arrival = ends[every, this.source, position] + self.streams.problem.scaled_transfer
            start = np.maximum(start, arrival)
        clocks[:, this.rank] = start + self.streams.costs[stream, position]
        ends[every, stream, position] = clocks[:, this.rank]
        counts[:, stream] += 1
        return EventLayer(counts, clocks, ends, rows, np.full((len(rows), 1), stream, np.int16))
