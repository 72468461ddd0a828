"""Search in layers: all states of a layer go one step, the hopeless are dropped, the best go on.

Dropped without loss are states

    whose lower bound is not below the best makespan known, and
    that another one dominates: the same actions have run, and no time is earlier.

With no other state dropped the search is complete: no order of its streams is faster by more than
one part in 10^9. Otherwise the layer is cut to a width, and what is found is found.
"""

from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.explore.search.streams import Streams
from seq1f1b_jax.schedule.actions import Action

NONE = -1
"""No stream, among the choices."""
TOLERANCE = 1e-9
_SPREAD = 4  # a layer may be wider by this before it is cut
_ALIKE = 2  # states of a cut layer that may have run the same actions
_RIVALS = 16  # states that each one is compared with

State = TypeVar("State", bound="Layer")


class Layer(Protocol):
    """States of a layer side by side, one row each; a NamedTuple of arrays."""

    counts: NDArray[np.int16]  # [states, streams]
    clocks: NDArray[np.float64]  # [states, ranks]
    parent: NDArray[np.int64]  # [states], row in the layer before
    choice: NDArray[np.int16]  # [states, choices], streams whose next action ran, in order


class Machine(Protocol[State]):
    """How states go on."""

    streams: Streams

    def start(self) -> State:
        """The only state of the first layer."""
        ...

    def step(self, state: State, layer: int, limit: "Limit") -> State:
        """All states that follow; `limit` may be called in between on what has come together."""
        ...

    def identity(self, state: State) -> NDArray[np.uint8]:
        """What must be equal for one state to dominate another, `[states, bytes]`."""
        ...

    def times(self, state: State) -> NDArray[np.float64]:
        """What must nowhere be later, `[states, times]`."""
        ...

    def bounds(self, state: State) -> NDArray[np.float64]:
        """Time before which no rank is done, `[states, ranks]`; 0 for ranks that are."""
        ...

    def makespans(self, state: State) -> NDArray[np.float64]:
        """Latest end so far, by state."""
        ...


class Exploration(NamedTuple):
    """What a search came to.

    Attributes:
      rows: the fastest order, actions by rank; None where none is below the incumbent.
      makespan: of it, or the incumbent's.
      complete: whether nothing was dropped that could have been faster.
    """

    rows: tuple[tuple[Action, ...], ...] | None
    makespan: float
    complete: bool


def take(state: Any, rows: NDArray) -> Any:
    """Some states of a layer, as copies."""
    return type(state)(*(array[rows] for array in state))


class Limit:
    """Keeps a layer to a width.

    Args:
      machine: of the search.
      width: states at the end of a layer.
      whole: whether the search must stay complete; then layers are not thinned.
      haste: share of the work left that is added to the lower bound, see `explore`.
    """

    def __init__(self, machine: "Machine", *, width: int, whole: bool, haste: float) -> None:
        self._machine, self._width, self._whole, self._haste = machine, width, whole, haste
        self.exceeded = False

    def __call__(self, state: State) -> State:
        """Cut a layer that is still being made."""
        if len(state.counts) <= _SPREAD * self._width:
            return state
        self.exceeded = True
        return take(state, self.best_first(state)[: _SPREAD * self._width])

    def best_first(self, state: Layer) -> NDArray[np.int64]:
        """Order by lower bound and haste, then by idle time so far."""
        bounds = self._machine.bounds(state)
        left = self._machine.streams.work_left(state.counts) / bounds.shape[1]
        return np.lexsort((left, bounds.sum(1), bounds.max(1) + self._haste * left))

    def thin(self, state: State) -> State:
        """Drop dominated states, then cut to the width."""
        if not len(state.counts):
            return state
        order = self.best_first(state)
        identity, times = self._machine.identity(state), self._machine.times(state)
        kept, rank = _undominated(identity[order], times[order])
        if not self._whole:
            self.exceeded |= bool((rank[kept] >= _ALIKE).any())
            kept = kept[rank[kept] < _ALIKE]
        self.exceeded |= len(kept) > self._width
        return take(state, order[kept[: self._width]])


def explore(
    machine: Machine[State],
    *,
    incumbent: float,
    width: int,
    haste: float = 0,
    max_states: int | None = None,
) -> Exploration:
    """Search for an order faster than one that is known.

    Args:
      machine: how states go on.
      incumbent: the makespan to beat, infinity if none is known.
      width: states of a layer.
      haste: share of the work left (its mean over ranks) that counts beside the lower bound where a
        layer is cut. Without it those states look best that put off what costs time.
      max_states: in all; given, the search stops where it could not stay complete.
    """
    whole = max_states is not None
    limit = Limit(machine, width=width, whole=whole, haste=haste)
    state, best, winner = machine.start(), incumbent, None
    log: list[tuple[NDArray, NDArray]] = []
    num_states = 0
    for layer in count():
        state = machine.step(state, layer, limit)
        num_states += len(state.counts)
        finished = machine.streams.finished(state.counts)
        makespans = np.where(finished, machine.makespans(state), np.inf)
        if makespans.min(initial=np.inf) < best * (1 - TOLERANCE):
            row = int(makespans.argmin())
            best, winner = makespans[row], (layer, state.parent[row], state.choice[row])
        bounds = machine.bounds(state).max(1)
        state = take(state, ~finished & (bounds < best * (1 - TOLERANCE)))
        state = limit.thin(state)
        log.append((state.parent, state.choice))
        if not len(state.counts) or (whole and (limit.exceeded or num_states > max_states)):
            break
    complete = not limit.exceeded and not len(state.counts)
    rows = None if winner is None else _rows(machine.streams, _trace(log, *winner))
    return Exploration(rows, float(best), complete)


def _undominated(
    identity: NDArray[np.uint8], times: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that no earlier one of the same identity dominates, and each row's rank among those.

    A row is held against the 16 before it only, so some that are dominated stay.
    """
    packed = np.ascontiguousarray(identity)
    packed = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    group = np.unique(packed, return_inverse=True)[1].ravel()
    by_group = np.argsort(group, kind="stable")
    group, times = group[by_group], times[by_group]
    position = np.arange(len(group)) - np.searchsorted(group, group)
    kept = np.ones(len(group), bool)
    for back in range(1, min(_RIVALS, position.max()) + 1):
        kept[back:] &= (times[:-back] > times[back:]).any(1) | (position[back:] < back)
    rank = np.empty_like(by_group)
    rank[by_group] = position
    return np.sort(by_group[kept]), rank


def _trace(log: list, layer: int, parent: int, choice: NDArray) -> Iterator[int]:
    """The streams that ran, first to last."""
    choices = [choice]
    for parents, earlier in reversed(log[:layer]):
        choices.append(earlier[parent])
        parent = parents[parent]
    return (int(stream) for chosen in reversed(choices) for stream in chosen if stream != NONE)


def _rows(streams: Streams, chosen: Iterator[int]) -> tuple[tuple[Action, ...], ...]:
    rows: list[list[Action]] = [[] for _ in range(streams.problem.num_ranks)]
    waiting = [iter(stream.actions) for stream in streams.streams]
    for stream in chosen:
        rows[streams.streams[stream].rank].append(next(waiting[stream]))
    return tuple(map(tuple, rows))
