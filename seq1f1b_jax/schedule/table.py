"""The tick table: what the executor reads. Integer arrays over ticks and ranks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.schedule.actions import Op
from seq1f1b_jax.schedule.grid import Cell, draw

IDLE, FORWARD, BACKWARD = 0, 1, 2
OP_CODES = {Op.F: FORWARD, Op.B: BACKWARD}


@dataclass(frozen=True, eq=False)
class TickTable:
    """One action at most per tick and rank, with the places its values live in.

    In tick h the pairs of ranks (a, a+1) with `a = h (mod 2)` exchange: a ran a forward and sends
    its activation down, a+1 ran a backward and sends its gradient up. What is sent in tick h is
    consumed in tick h+1. All arrays are int32 `[num_ticks, num_stages]`, 0 in idle cells.

    Attributes:
      op: `IDLE` 0, `FORWARD` 1 or `BACKWARD` 2.
      microbatch: of the unit.
      chunk: of the unit.
      cache_slot: slot of the microbatch's keys and values in the rank's cache.
      arena_offset: start of the unit's residuals in the rank's arena, in tokens.
      chunk_lengths: tokens of each chunk.
      num_microbatches: sequence batches per step.
      peak_units: units alive at each rank's fullest tick.
      cache_slots_per_rank: cache slots each rank uses.
      arena_tokens_per_rank: arena each rank uses, in tokens.
    """

    op: NDArray[np.int32]
    microbatch: NDArray[np.int32]
    chunk: NDArray[np.int32]
    cache_slot: NDArray[np.int32]
    arena_offset: NDArray[np.int32]
    chunk_lengths: tuple[int, ...]
    num_microbatches: int
    peak_units: tuple[int, ...]
    cache_slots_per_rank: tuple[int, ...]
    arena_tokens_per_rank: tuple[int, ...]

    @property
    def num_ticks(self) -> int:
        """Ticks of a step; even, since the scan body holds two."""
        return self.op.shape[0]

    @property
    def num_stages(self) -> int:
        """Ranks of the pipeline."""
        return self.op.shape[1]

    @property
    def num_chunks(self) -> int:
        """Slices of each sequence."""
        return len(self.chunk_lengths)

    @property
    def seq_len(self) -> int:
        """Tokens of a sequence."""
        return sum(self.chunk_lengths)

    @property
    def forward_only(self) -> bool:
        """True for evaluation: no backward, nothing kept for one."""
        return not (self.op == BACKWARD).any()

    @property
    def num_cache_slots(self) -> int:
        """Cache slots that every rank allocates: those of the rank that needs most."""
        return max(self.cache_slots_per_rank)

    @property
    def arena_tokens(self) -> int:
        """Arena that every rank allocates, in tokens: that of the rank that needs most."""
        return max(self.arena_tokens_per_rank)

    @property
    def last_arena_tokens(self) -> int:
        """Arena that the last rank uses, in tokens: also what its loss gradients need."""
        return self.arena_tokens_per_rank[-1]


def draw_table(table: TickTable) -> str:
    """Draw a tick table with one column per tick."""
    letters = {code: op for op, code in OP_CODES.items()}
    rows: list[list[Cell]] = [[] for _ in range(table.num_stages)]
    for tick, rank in np.argwhere(table.op != IDLE).tolist():
        unit = f"{table.microbatch[tick, rank]}.{table.chunk[tick, rank]}"
        rows[rank].append(Cell(f"{letters[int(table.op[tick, rank])]}{unit}", tick))
    return draw(rows, num_columns=table.num_ticks)
