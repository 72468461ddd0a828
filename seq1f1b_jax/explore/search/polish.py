"""Local search: many small changes of an order at once, of which the best is kept.

A change moves some neighbouring actions of one operation a few positions earlier or later in the
rows of one rank or of several: a single action, a longer warm-up of many ranks, later `W`s. Orders
that deadlock take infinitely long.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.explore.search.layers import TOLERANCE
from seq1f1b_jax.explore.search.order_timer import OrderTimer

_CHANGES = 256  # at once, ...
_ROOM = 2**20  # ... unless they have more actions than this in all
_DISTANCES = (1, 1, 1, 2, 2, 3, 4, 6)
_LENGTHS = (1, 1, 2, 4, 8, 10**6)


class Polished(NamedTuple):
    """An order, and its makespan in the scaled time of the problem."""

    rows: NDArray[np.int64]
    makespan: float


def polish(
    timer: OrderTimer, rows: NDArray[np.int64], *, goal: float, num_rounds: int, seed: int
) -> Polished:
    """Improve an order until no change helps for long.

    Args:
      timer: the timer.
      rows: an order, `[num_ranks, actions per rank]`.
      goal: a makespan that cannot be improved on.
      num_rounds: of 256 changes each, fewer of very long orders.
      seed: of the random changes.
    """
    random = np.random.default_rng(seed)
    makespan = timer.makespans(rows[None])[0]
    num_changes = int(np.clip(_ROOM // rows.size, 16, _CHANGES))
    for _ in range(num_rounds):
        if makespan <= goal * (1 + TOLERANCE):
            break
        changed = _changes(timer, rows, num_changes, random)
        makespans = timer.makespans(changed)
        # Equally good ones are taken too, at random: most changes change nothing by themselves.
        best = np.lexsort((random.random(num_changes), makespans))[0]
        if makespans[best] <= makespan:
            rows, makespan = changed[best], makespans[best]
    return Polished(rows, float(makespan))


def _changes(
    timer: OrderTimer, rows: NDArray[np.int64], num_changes: int, random: np.random.Generator
) -> NDArray[np.int64]:
    """Random changes of one order, `[changes, num_ranks, actions per rank]`."""
    num_ranks, length = rows.shape
    positions = np.tile(np.arange(length, dtype=float), (num_changes, num_ranks, 1))
    ops = np.take_along_axis(timer.ops, rows, 1)
    num_ops = len(timer.problem.ops)
    by_op = [[np.flatnonzero(ops[p] == op) for op in range(num_ops)] for p in range(num_ranks)]
    for change in positions:
        first = random.integers(num_ranks)
        last = first if random.random() < 0.6 else random.integers(first, num_ranks)
        op, at, many = random.integers(num_ops), random.random(), random.choice(_LENGTHS)
        distance = (random.choice(_DISTANCES) + 0.5) * random.choice((-1, 1))
        for rank in range(first, last + 1):
            actions = by_op[rank][op]
            begin = int(at * len(actions))
            change[rank, actions[begin : begin + many]] += distance
    order = np.argsort(positions, axis=2, kind="stable")
    return np.take_along_axis(np.broadcast_to(rows, positions.shape), order, 2)
