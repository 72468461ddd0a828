"""The orders that are searched: streams of actions whose order among themselves is fixed.

An order of a rank is a way to merge its streams. How far each stream has come is then one count,
and whether an action may run is a comparison of counts.

    by chunk   one stream per (operation, stage, chunk), microbatches ascending. On the
               asynchronous machine nothing is lost: name the microbatches anew, in each stream by
               the order in which they ran. The k-th action of a stream then waits for the k-th of
               others, where before it waited for one such that k were over: no time changes, and
               no count of units held either. In ticks the new names might run earlier, and earlier
               is not always better there, so for the executor this is a choice (in every case
               tried by brute force no order outside it was faster).
    by stage   one stream per (operation, stage): microbatch by microbatch, chunks ascending in
               forwards and descending in backwards, as in every named schedule. Far fewer orders.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.explore.search.bound import Ways
from seq1f1b_jax.explore.search.problem import Problem
from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.generators.orders import backward_order, forward_order

Counts = NDArray[np.int16]
"""Actions run of each stream, `[states, streams]`."""


class Stream(NamedTuple):
    """Actions of one operation of one stage in a fixed order.

    Attributes:
      op: the operation.
      rank: that runs them.
      actions: in order.
      needs: streams of the same stage, and how many of theirs each action waits for.
      source: stream whose k-th action sends what the k-th of this one reads, if any.
    """

    op: Op
    rank: int
    actions: tuple[Action, ...]
    needs: tuple[tuple[int, Counts], ...]
    source: int | None


class Streams:
    """All actions of a problem as streams.

    Args:
      problem: sizes, costs and cap.
      by_chunk: which streams, see above.
    """

    def __init__(self, problem: Problem, *, by_chunk: bool) -> None:
        self.problem = problem
        self.streams = _cut(problem, by_chunk=by_chunk)
        self.lengths = np.array([len(stream.actions) for stream in self.streams])
        size = len(self.streams), self.lengths.max() + 1
        self.costs = np.zeros(size)
        for costs, stream in zip(self.costs, self.streams, strict=True):
            costs[: len(stream.actions)] = [problem.scaled_cost(a) for a in stream.actions]
        self._left = np.cumsum(self.costs[:, ::-1], 1)[:, ::-1]
        self._index = np.arange(len(self.streams))
        self.ranks = np.array([stream.rank for stream in self.streams])
        self._reads = np.array([stream.source is not None for stream in self.streams])
        self._sources = np.array([stream.source or 0 for stream in self.streams])
        self._by_rank = np.array([self.of(rank) for rank in range(problem.num_ranks)])
        self._on_rank = (self.ranks[:, None] == np.arange(problem.num_ranks)).astype(float)
        self._sends = np.array([stream.op is not Op.W for stream in self.streams])
        self._end = _ends(problem)

    def of(self, rank: int, *ops: Op) -> list[int]:
        """Streams of a rank, of some operations or of all."""
        streams = enumerate(self.streams)
        return [i for i, s in streams if s.rank == rank and (not ops or s.op in ops)]

    def ready(self, stream: int, counts: Counts, sent: Counts) -> NDArray[np.bool_]:
        """Whether the stream's next action may run, by state.

        Args:
          stream: index.
          counts: what has run.
          sent: of that, what others may read.
        """
        this = self.streams[stream]
        position = counts[:, stream]
        ready = position < self.lengths[stream]
        if this.source is not None:
            ready = ready & (sent[:, this.source] > position)
        for other, needed in this.needs:
            ready = ready & (counts[:, other] >= needed[position])
        return ready & self.has_room(this.rank, counts) if this.op is Op.F else ready

    def has_room(self, rank: int, counts: Counts) -> NDArray[np.bool_]:
        """Whether the rank may hold one more unit."""
        held = counts[:, self.of(rank, Op.F)].sum(1)
        held -= counts[:, self.of(rank, self.problem.release_op)].sum(1)
        return held < self.problem.max_units

    def finished(self, counts: Counts) -> NDArray[np.bool_]:
        """Whether everything has run."""
        return (counts == self.lengths).all(1)

    def bounds(
        self, counts: Counts, clocks: NDArray[np.float64], barred: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Time before which no rank can be done, `[states, num_ranks]`; 0 for those that are.

        Infinity where ranks wait for each other for ever.

        Args:
          counts: what has run.
          clocks: since when each rank is free, `[states, num_ranks]`.
          barred: streams that may not run next, `[states, streams]`.
        """
        left = self._left[self._index, counts]
        work, sending = left @ self._on_rank, (left * self._sends) @ self._on_rank
        starts = self._next_starts(counts, clocks, barred)
        by_sends = np.where(sending > 0, starts + sending + self._end, 0)
        unfinished = (counts < self.lengths) @ self._on_rank > 0
        return np.maximum(np.where(unfinished, starts + work, 0), by_sends)

    def _next_starts(self, counts, clocks, barred) -> NDArray[np.float64]:
        """Earliest start of each rank's next action.

        Each rank's next action is one of those that its own work allows. Where all of them wait for
        messages, the rank waits for the first that can come: for the next action of another rank.
        """
        everything = np.broadcast_to(self.lengths, counts.shape)
        ready = [self.ready(s, counts, everything) for s in range(len(self.streams))]
        ready = np.stack(ready, 1) & ~barred
        waiting = ready & self._reads & (counts[:, self._sources] <= counts)
        sending = self.costs[self._sources, counts[:, self._sources]]
        sending = np.where(waiting, sending + self.problem.scaled_transfer, np.inf)
        free = (ready & ~waiting) @ self._on_rank > 0
        starts = np.where(free, clocks, np.inf)
        for _ in range(self.problem.num_ranks):
            arrivals = starts[:, self.ranks[self._sources]] + sending
            soonest = arrivals[:, self._by_rank].min(2)
            earlier = np.minimum(starts, np.maximum(clocks, soonest))
            if (earlier == starts).all():
                break
            starts = earlier
        return starts

    def work_left(self, counts: Counts) -> NDArray[np.float64]:
        """Time of everything that has not run yet, by state."""
        return self._left[self._index, counts].sum(1)


def _ends(problem: Problem) -> NDArray[np.float64]:
    """By rank: least time from its last gradient to the end of the step."""
    after = Ways(problem).after_gradient
    ends = [min(map(after, problem.stages(rank))) for rank in range(problem.num_ranks)]
    return np.array([float(end * problem.scale) for end in ends])


def _cut(problem: Problem, *, by_chunk: bool) -> tuple[Stream, ...]:
    keys = [
        (op, stage, chunk)
        for stage in range(problem.num_stages)
        for op in problem.ops
        for chunk in (range(problem.num_chunks) if by_chunk else (None,))
    ]
    rows = [_actions(problem, *key) for key in keys]
    index = {action: (i, k) for i, row in enumerate(rows) for k, action in enumerate(row)}
    return tuple(_stream(problem, i, row, index) for i, row in enumerate(rows))


def _actions(problem: Problem, op: Op, stage: int, chunk: int | None) -> tuple[Action, ...]:
    sizes = stage, problem.num_microbatches, problem.num_chunks
    order = forward_order(*sizes) if op is Op.F else backward_order(*sizes, op)
    return tuple(action for action in order if chunk is None or action.chunk == chunk)


def _stream(
    problem: Problem, stream: int, actions: tuple[Action, ...], index: dict[Action, tuple]
) -> Stream:
    needs: dict[int, Counts] = {}
    for k, action in enumerate(actions):
        for needed in problem.needs(action):
            other, position = index[needed]
            if other != stream:
                counts = needs.setdefault(other, np.zeros(len(actions) + 1, np.int16))
                counts[k] = position + 1
    source = problem.source(actions[0])
    return Stream(
        actions[0].op,
        actions[0].stage % problem.num_ranks,
        actions,
        tuple(needs.items()),
        None if source is None else index[source][0],
    )
