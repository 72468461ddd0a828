"""What a chunk costs to compute, as it was measured: seconds instead of counted operations.

Between and around the points of a table the seconds are those of a fit (`fit.py`), for chunks from
half the shortest length measured to twice the longest. Those of the layers are proportional to
their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from statistics import median
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.schedule.actions import Op
from seq1f1b_jax.schedule.simulation.cost_table import PROFILE, REACH, CostTable, Row
from seq1f1b_jax.schedule.simulation.durations import Costs
from seq1f1b_jax.schedule.simulation.fit import Terms, fit, held_out_errors
from seq1f1b_jax.schedule.simulation.flops import StageCost


class Parts(NamedTuple):
    """Seconds of each term of one operation, by the part of the model that takes them."""

    layers: Terms
    embedding: Terms
    head: Terms

    def of_stage(self, num_layers: int, *, is_first: bool, is_last: bool) -> Terms:
        """Of a stage of so many layers."""
        total = [num_layers * each for each in self.layers]
        for part in [self.embedding] * is_first + [self.head] * is_last:
            total = [a + b for a, b in zip(total, part, strict=True)]
        return Terms(*total)


@dataclass(frozen=True, eq=False)
class MeasuredCosts:
    """Seconds of every chunk on every stage of a run; used where a `StageCost` is.

    Attributes:
      table: what was measured.
      sizes: the run's layers by stage, and which keys a query sees.

    Raises:
      ValueError: the table holds no forward or no backward.

    Example:
      >>> from seq1f1b_jax.schedule import StageCost
      >>> from seq1f1b_jax.schedule.simulation.cost_table import CostTable, Row
      >>> rows = [Row(op, n, 0, k * n / 1e6, 0, n / 1e6, 0.01) for op, k in (("F", 1), ("B", 2))
      ...         for n in (128, 256)]
      >>> sizes = StageCost(model_dim=256, num_heads=4, num_kv_heads=4, head_dim=64, mlp_dim=1024,
      ...                   gated=False, vocab_size=256, layers_per_stage=(4, 2))
      >>> cost = MeasuredCosts(CostTable(2, 1024, {}, tuple(rows)), sizes)
      >>> (1e6 * cost.costs((128, 256)).forward).round().tolist()
      [[256.0, 512.0], [256.0, 512.0]]
    """

    table: CostTable
    sizes: StageCost

    def __post_init__(self) -> None:
        """Refuse half of a table."""
        ops = self.table.ops
        if Op.F not in ops or (Op.B not in ops and not {Op.I, Op.W} <= set(ops)):
            raise ValueError(
                f"the table has {', '.join(ops)}, and a step needs F and B, or F, I and W; "
                f"measure with {PROFILE}"
            )

    @property
    def layers_per_stage(self) -> tuple[int, ...]:
        """Layers of each stage along the model."""
        return self.sizes.layers_per_stage

    @cached_property
    def parts(self) -> dict[Op, Parts]:
        """Seconds of each term, by operation; those of the layers are of one layer."""
        return {op: self._parts(self.table.of(op)) for op in self.table.ops}

    @cached_property
    def errors(self) -> dict[Op, tuple[float, ...]]:
        """Relative error of every row of the layers, predicted from all others of its operation."""
        found = {}
        for op in self.table.ops:
            rows = self.table.of(op)
            if len(rows) > 1:
                found[op] = held_out_errors(self._chunks(rows), [row.layers for row in rows])
        return found

    @property
    def median_error(self) -> float:
        """Of the errors' sizes; 0 where too little was measured."""
        return median(self._sizes)

    @property
    def worst_error(self) -> float:
        """The largest of them."""
        return max(self._sizes)

    @property
    def _sizes(self) -> list[float]:
        return [abs(error) for errors in self.errors.values() for error in errors] or [0.0]

    def terms(self, start: int, length: int) -> Terms:
        """What a chunk consists of."""
        pairs = self.sizes.pairs(start + length) - self.sizes.pairs(start)
        return Terms(1, length, pairs, start + length)

    def seconds(self, op: Op, stage: int, *, start: int, length: int) -> float:
        """Of one action, however long the chunk is."""
        return float(self._by_stage[op][stage] @ np.array(self.terms(start, length)))

    def __call__(self, start: int, length: int) -> float:
        """Cost of a chunk: the most, over stages, of its forward and backward together.

        Args:
          start: first token of the chunk.
          length: tokens of the chunk, any: a search for lengths compares all.

        Returns:
          Seconds.
        """
        chunk = self.terms(start, length)
        return max(pace.seconds(chunk) for pace in self._paces)

    def covers(self, chunk_lengths: Sequence[int]) -> bool:
        """Whether all lengths are close enough to those measured."""
        shortest, longest = self.table.lengths
        return shortest <= min(chunk_lengths) and max(chunk_lengths) <= longest

    def costs(self, chunk_lengths: Sequence[int]) -> Costs:
        """Seconds of every action, as `simulate` takes it.

        Raises:
          ValueError: a chunk far shorter or longer than those measured, or a far longer sequence.
        """
        if not self.covers(chunk_lengths):
            shortest, longest = self.table.lengths
            wrong = min(chunk_lengths) if min(chunk_lengths) < shortest else max(chunk_lengths)
            raise ValueError(
                f"a chunk of {wrong} tokens is far from what was measured, which is good for "
                f"{shortest} to {longest} tokens; profile again with other lengths: {PROFILE} "
                f"--lengths {wrong},..., or use another schedule.num_chunks"
            )
        if sum(chunk_lengths) > REACH * self.table.seq_len:
            raise ValueError(
                f"a sequence of {sum(chunk_lengths)} tokens is far longer than the "
                f"{self.table.seq_len} that were measured; profile again with --data.seq_len "
                f"{sum(chunk_lengths)}: {PROFILE}"
            )
        starts = accumulate(chunk_lengths, initial=0)
        chunks = [self.terms(*chunk) for chunk in zip(starts, chunk_lengths, strict=False)]
        found = {op: self._by_stage[op] @ np.array(chunks).T for op in self.parts}
        halves = Op.I in found and Op.W in found
        whole = found[Op.B] if Op.B in found else found[Op.I] + found[Op.W]
        if not halves:
            return Costs(forward=found[Op.F], backward=whole)
        return Costs(forward=found[Op.F], backward=whole, weights=found[Op.W], inputs=found[Op.I])

    @cached_property
    def _by_stage(self) -> dict[Op, NDArray[np.float64]]:
        """Seconds of each term, `[num_stages, terms]`, by operation."""
        last = self.sizes.num_stages - 1
        return {
            op: np.array([
                parts.of_stage(count, is_first=stage == 0, is_last=stage == last)
                for stage, count in enumerate(self.layers_per_stage)
            ])
            for op, parts in self.parts.items()
        }  # fmt: skip

    @cached_property
    def _paces(self) -> frozenset[Terms]:
        """Forward and backward together on each stage, of those that differ."""
        ops = (Op.F, Op.B) if Op.B in self.parts else (Op.F, Op.I, Op.W)
        rows = np.sum([self._by_stage[op] for op in ops], axis=0)
        return frozenset(Terms(*row) for row in rows.tolist())

    def _parts(self, rows: Sequence[Row]) -> Parts:
        chunks = self._chunks(rows)
        layers = fit(chunks, [row.layers / self.table.num_layers for row in rows])
        # embedding and head look at no key
        tokens = [chunk._replace(pairs=0, keys=0) for chunk in chunks]
        scale = [row.layers for row in rows]
        embedding, head = (
            fit(tokens, [getattr(row, part) for row in rows], scale)
            for part in ("embedding", "head")
        )
        return Parts(layers, embedding, head)

    def _chunks(self, rows: Sequence[Row]) -> list[Terms]:
        """What was measured: sequences of one document."""
        whole = replace(self, sizes=replace(self.sizes, visible_keys=None))
        return [whole.terms(row.offset, row.length) for row in rows]
