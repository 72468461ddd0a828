"""How many layers each stage gets, so that a step of given chunks takes the least time.

Memory goes by the largest stage. One program runs on all ranks, so each has room for as many layers
as the largest stage has, for their parameters and for their residuals of the most units that any
rank holds: fewer layers on the first ranks, which hold the most units, would save nothing.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.schedule.actions import Op
from seq1f1b_jax.schedule.simulation.durations import Costs
from seq1f1b_jax.schedule.simulation.makespans import Stopwatch, times_of

DIGITS = 9
"""Of a step's time over that of even stages: equal up to these is equal."""

NUM_COMPARED = 500
"""Ways to divide the layers that are compared at once, where one has no more neighbours."""

PATIENCE = 2
"""Rounds without a better one that end the search. With 1, two of 540 small models on rings were
divided up to 1.3 % too slow; with 2, none."""


def even_layers(num_layers: int, num_stages: int) -> tuple[int, ...]:
    """Layers of each stage as even as they go; the earlier stages take the remainder.

    Raises:
      ValueError: fewer layers than stages.

    Example:
      >>> even_layers(10, 4)
      (3, 3, 2, 2)
    """
    if num_layers < num_stages:
        raise ValueError(
            f"num_layers={num_layers} is fewer than the {num_stages} stages, and every stage needs"
            f" a layer; use at most {num_layers} stages or more layers"
        )
    share, rest = divmod(num_layers, num_stages)
    return tuple(share + (stage < rest) for stage in range(num_stages))


class Division(NamedTuple):
    """Layers divided over stages; of several the least is the best.

    Attributes:
      time: of a step, over that of even stages.
      largest: layers of the largest stage.
      less: minus the layers of each stage: of equals, the one with more on the first stages.
    """

    time: float
    largest: int
    less: tuple[int, ...]

    @property
    def layers(self) -> tuple[int, ...]:
        """Of each stage along the model."""
        return tuple(-count for count in self.less)


def fastest_layers(
    num_layers: int, stopwatch: Stopwatch, *, costs: Callable[[tuple[int, ...]], Costs]
) -> tuple[Division, ...]:
    """Layers of each stage with which the executor's step is shortest, by the largest stage.

    A beam search: it begins with even stages, and with stages filled layer by layer where there is
    least to do, and moves layers one at a time between any two stages of the best few; rings have
    local optima, which the best one alone does not leave. The tests compare with all ways to divide
    small models.

    Args:
      num_layers: of the model.
      stopwatch: of the schedule.
      costs: times of the actions for so many layers of each stage; a layer more must add the same
        time however many there are. The transfer of messages is not counted.

    Returns:
      The fastest division whose largest stage is as small as can be, and then each whose stages
      may be larger and which is faster for it: the last one is the fastest of all.

    Raises:
      ValueError: fewer layers than stages.

    Example:
      >>> from dataclasses import replace
      >>> from seq1f1b_jax.schedule import StageCost, make_plan
      >>> from seq1f1b_jax.schedule.simulation.makespans import Stopwatch
      >>> cost = StageCost(model_dim=1024, num_heads=8, num_kv_heads=8, head_dim=128, mlp_dim=4096,
      ...                  gated=False, vocab_size=50304, layers_per_stage=(6, 6, 6, 6))
      >>> plan = make_plan("seq1f1b", num_ranks=4, num_microbatches=8, num_chunks=2)
      >>> costs = lambda layers: replace(cost, layers_per_stage=layers).costs((1024, 1024))
      >>> for division in fastest_layers(24, Stopwatch(plan), costs=costs):
      ...     print(division.layers, round(division.time, 3))
      (6, 6, 6, 6) 1.0
      (7, 7, 7, 3) 0.839
    """
    search = _Search(num_layers, stopwatch, costs)
    fastest = search.best(num_layers)
    smallest = -(-num_layers // stopwatch.plan.num_stages)
    found = [search.best(largest) for largest in range(smallest, fastest.largest)]
    chosen: list[Division] = []
    for division in (*found, fastest):
        if not chosen or division.time < chosen[-1].time:
            chosen.append(division)
    return tuple(chosen)


class _Search:
    """A beam search over the ways to divide the layers of a model over the stages of a plan."""

    def __init__(
        self, num_layers: int, stopwatch: Stopwatch, costs: Callable[[tuple[int, ...]], Costs]
    ) -> None:
        plan, self._stopwatch = stopwatch.plan, stopwatch
        self._num_layers, self._num_stages = num_layers, plan.num_stages
        self._num_ranks = plan.num_ranks
        ones, twos = (times_of(costs((count,) * plan.num_stages), plan) for count in (1, 2))
        self._layer = {op: twos[op] - ones[op] for op in Op}
        self._rest = {op: ones[op] - self._layer[op] for op in Op}
        self._even = even_layers(num_layers, plan.num_stages)
        self._unit = self._seconds([self._even])[0] or 1.0
        to, of = np.eye(plan.num_stages, dtype=int), np.eye(plan.num_stages, dtype=int)[:, None]
        self._moves = (to - of).reshape(-1, plan.num_stages)
        self._width = max(1, NUM_COMPARED // len(self._moves))
        self._found: dict[tuple[int, ...], Division] = {}

    def best(self, largest: int) -> Division:
        """The best with at most so many layers on a stage."""
        stages = range(self._num_stages)
        starts = [tuple(np.roll(self._even, first).tolist()) for first in stages]
        beam = self._few({*starts, *(self._filled(largest, first) for first in stages)})
        best, stale = beam[0], 0
        while stale < PATIENCE:
            near = np.array([found.layers for found in beam])[:, None] + self._moves
            near = near.reshape(-1, self._num_stages)
            near = near[(near.min(axis=1) >= 1) & (near.max(axis=1) <= largest)]
            beam = self._few(set(map(tuple, near.tolist())))
            best, stale = (beam[0], 0) if beam[0] < best else (best, stale + 1)
        return best

    def _filled(self, largest: int, first: int) -> tuple[int, ...]:
        """Every stage a layer, each other one where the rank has least to do with it.

        Args:
          largest: the most layers of a stage.
          first: of equals, the stage at or next after this one.
        """
        layer, rest = (
            (one[Op.F] + one[Op.B]).sum(axis=(1, 2)) for one in (self._layer, self._rest)
        )
        layers = np.ones(self._num_stages, int)
        for _ in range(self._num_layers - self._num_stages):
            ranks = (layers * layer + rest).reshape(-1, self._num_ranks).sum(axis=0)
            after = np.tile(ranks, self._num_stages // self._num_ranks) + layer
            after = np.roll(np.where(layers < largest, after, np.inf), -first)
            layers[(after.argmin() + first) % self._num_stages] += 1
        return tuple(layers.tolist())

    def _few(self, ways: set[tuple[int, ...]]) -> list[Division]:
        """The best few of them, the best first."""
        new = [layers for layers in ways if layers not in self._found]
        times = self._seconds(new) / self._unit if new else []
        for layers, time in zip(new, times, strict=True):
            less = tuple(-count for count in layers)
            self._found[layers] = Division(round(float(time), DIGITS), max(layers), less)
        return sorted(self._found[layers] for layers in ways)[: self._width]

    def _seconds(self, ways: list[tuple[int, ...]]) -> NDArray[np.float64]:
        """Step times of ways to divide the layers."""
        counts = np.array(ways, int).reshape(-1, self._num_stages).T[:, None, :]
        return self._stopwatch({op: self._layer[op] * counts + self._rest[op] for op in Op})
