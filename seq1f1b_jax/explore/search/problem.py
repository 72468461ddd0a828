"""The problem that a search solves: sizes, costs, a cap on memory and a machine."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from math import lcm
from numbers import Rational
from typing import Any

import numpy as np

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.dependencies import local_dependencies, message_source
from seq1f1b_jax.schedule.simulation.durations import Costs
from seq1f1b_jax.schedule.simulation.simulate import MACHINES


@dataclass(frozen=True)
class Problem:
    """Sizes, costs, cap and machine.

    Attributes:
      num_ranks: ranks of the pipeline P.
      num_microbatches: sequence batches per step M.
      num_chunks: slices of each sequence C.
      costs: times of the actions.
      max_units: units that any rank may hold at once.
      stages_per_rank: stages per rank V.
      split: whether backwards are split into I and W.
      machine: one of `MACHINES`.

    Raises:
      ValueError: a size is below 1, the cap is below `V*C`, or the machine is unknown.
    """

    num_ranks: int
    num_microbatches: int
    num_chunks: int
    costs: Costs
    max_units: int
    stages_per_rank: int = 1
    split: bool = False
    machine: str = "executor"

    def __post_init__(self) -> None:
        """Refuse what no order can satisfy."""
        for size in ("num_ranks", "num_microbatches", "num_chunks", "stages_per_rank"):
            if getattr(self, size) < 1:
                raise ValueError(f"{size}={getattr(self, size)} must be at least 1")
        if self.machine not in MACHINES:
            known = ", ".join(MACHINES)
            raise ValueError(f"machine={self.machine!r} is unknown; use one of {known}")
        least = self.stages_per_rank * self.num_chunks
        if self.max_units < least:
            through = f" through all {self.stages_per_rank} stages" * (self.stages_per_rank > 1)
            raise ValueError(
                f"max_units={self.max_units} is too few: before the first backward a rank runs"
                f" all {self.num_chunks} chunks of a microbatch forward{through}; allow at least"
                f" {least}"
            )

    @property
    def sizes(self) -> dict[str, int]:
        """P, M and C as every generator takes them."""
        names = ("num_ranks", "num_microbatches", "num_chunks")
        return {name: getattr(self, name) for name in names}

    @property
    def num_stages(self) -> int:
        """Groups of layers in all."""
        return self.num_ranks * self.stages_per_rank

    @property
    def units_per_rank(self) -> int:
        """Units of all stages that a rank runs in a step."""
        return self.num_microbatches * self.num_chunks * self.stages_per_rank

    @property
    def ops(self) -> tuple[Op, ...]:
        """The operations that each unit goes through."""
        return (Op.F, Op.I, Op.W) if self.split else (Op.F, Op.B)

    @property
    def gradient_op(self) -> Op:
        """What sends a gradient."""
        return self.ops[1]

    @property
    def release_op(self) -> Op:
        """What ends a unit's time in memory."""
        return self.ops[-1]

    def actions(self, rank: int) -> tuple[Action, ...]:
        """All actions of a rank."""
        return tuple(
            Action(op, stage, microbatch, chunk)
            for stage in self.stages(rank)
            for op in self.ops
            for microbatch in range(self.num_microbatches)
            for chunk in range(self.num_chunks)
        )

    def stages(self, rank: int) -> range:
        """The stages of a rank."""
        return range(rank, self.num_stages, self.num_ranks)

    def needs(self, action: Action) -> tuple[Action, ...]:
        """What must come before on the same stage."""
        return tuple(map(self._sender, local_dependencies(action, num_chunks=self.num_chunks)))

    def source(self, action: Action) -> Action | None:
        """The action of another stage whose message this one reads."""
        source = message_source(action, num_stages=self.num_stages)
        return None if source is None else self._sender(source)

    def _sender(self, event: Action) -> Action:
        return replace(event, op=self.gradient_op) if event.op is Op.B else event

    @cached_property
    def cost(self) -> Callable[[Action], Any]:
        """The cost of an action."""
        return self.costs.per_action(self.num_stages, self.num_chunks)

    @cached_property
    def scale(self) -> int:
        """Factor that makes all costs integers, so that float64 adds them exactly; 1 for floats."""
        stages, chunks = range(self.num_stages), range(self.num_chunks)
        costs = {self.cost(Action(op, s, 0, c)) for op in self.ops for s in stages for c in chunks}
        costs.add(self.costs.transfer)
        if not all(isinstance(cost, Rational | np.integer) for cost in costs):
            return 1
        scale = lcm(*(Fraction(cost).denominator for cost in costs))
        longest = scale * sum(costs) * 2 * len(self.ops) * self.units_per_rank * self.num_ranks
        return scale if longest < 2**53 else 1

    def scaled_cost(self, action: Action) -> float:
        """The cost of an action times `scale`."""
        return float(self.cost(action) * self.scale)

    @property
    def scaled_transfer(self) -> float:
        """The transfer time times `scale`."""
        return float(self.costs.transfer * self.scale)
