"""The tick table: what the executor reads. Integer arrays over ticks and ranks."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.exchange import PERIOD, Exchange, Pairs
from seq1f1b_jax.schedule.grid import Cell, draw

NO_ACTION, FORWARD, BACKWARD, INPUT_BACKWARD = 0, 1, 2, 3
OP_CODES = {Op.F: FORWARD, Op.B: BACKWARD, Op.I: INPUT_BACKWARD}
LETTERS = {code: op for op, code in OP_CODES.items()}
NO_STAGE = -1
"""Stage of a `W` that is not there."""


class ActionColumns(NamedTuple):
    """The sending actions, int32 `[num_ticks, num_ranks]`; 0 where there is none.

    `cache_pages` has one dim more, `[num_ticks, num_ranks, num_chunks]`.

    Attributes:
      op: `NO_ACTION` 0, `FORWARD` 1, `BACKWARD` 2 or `INPUT_BACKWARD` 3.
      stage: that the action runs through.
      microbatch: of the unit.
      chunk: of the unit.
      cache_pages: where the keys and values of each chunk of the stage and microbatch begin in the
        rank's cache, in tokens; those of later chunks than the action's are not in use.
      prefix_slot: slot of the gradients of those keys and values.
      arena_offset: start of the unit's residuals in the rank's arena, in tokens.
      loss_offset: start of the unit's loss gradient on the rank of the last stage, in tokens.
      deferred_offset: start of what an `I` leaves to its `W`, in tokens.
      inbox_slot: slot of the message that the action consumes.
    """

    op: NDArray[np.int32]
    stage: NDArray[np.int32]
    microbatch: NDArray[np.int32]
    chunk: NDArray[np.int32]
    cache_pages: NDArray[np.int32]
    prefix_slot: NDArray[np.int32]
    arena_offset: NDArray[np.int32]
    loss_offset: NDArray[np.int32]
    deferred_offset: NDArray[np.int32]
    inbox_slot: NDArray[np.int32]


class WeightColumns(NamedTuple):
    """The `W`s, int32 `[num_ticks, num_ranks]`; 0 where there is none, but for the stage.

    Attributes:
      stage: of the `W`; `NO_STAGE` where there is none.
      microbatch: of its unit.
      chunk: of its unit.
      arena_offset: start of its residuals.
      deferred_offset: start of what its `I` left.
    """

    stage: NDArray[np.int32]
    microbatch: NDArray[np.int32]
    chunk: NDArray[np.int32]
    arena_offset: NDArray[np.int32]
    deferred_offset: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class TickTable:
    """At most one sending action per tick and rank, one `W`, and where their values are stored.

    A tick is: the action, then the exchange of messages, then the `W`. Where messages travel late,
    the exchange is that of the tick before. What arrives in tick h is written to the slot
    `arrival_slot` of the inbox, whether or not anybody will read it, and may be read from tick h+1
    on.

    Attributes:
      actions: by tick and rank, what sends.
      weights: likewise, the `W`s.
      arrival_slot: int32 `[num_ticks, num_ranks]`, slot for the message that arrives in this tick's
        exchange, in cells without an action too.
      exchange: who swaps messages with whom in which tick.
      stages_per_rank: stages per rank.
      chunk_lengths: tokens of each chunk.
      num_microbatches: sequence batches per step.
      peak_units: units alive at each rank's fullest moment.
      cache_tokens_per_rank: keys and values each rank keeps room for, in tokens.
      cache_bound_per_rank: those alive at its fullest tick: no packing takes less.
      prefix_slots_per_rank: slots of key/value gradients each rank uses.
      arena_tokens_per_rank: arena each rank uses, in tokens; ranks that are not the fullest are
        packed only as well as that one.
      arena_bound_per_rank: tokens alive at its fullest tick: no packing takes less.
      deferred_tokens_per_rank: what each rank keeps between `I` and `W` at its fullest, in tokens.
      inbox_slots_per_rank: messages each rank holds at its fullest.
      loss_tokens: loss gradients that the rank of the last stage holds at its fullest, in tokens.
    """

    actions: ActionColumns
    weights: WeightColumns
    arrival_slot: NDArray[np.int32]
    exchange: Exchange
    stages_per_rank: int
    chunk_lengths: tuple[int, ...]
    num_microbatches: int
    peak_units: tuple[int, ...]
    cache_tokens_per_rank: tuple[int, ...]
    cache_bound_per_rank: tuple[int, ...]
    prefix_slots_per_rank: tuple[int, ...]
    arena_tokens_per_rank: tuple[int, ...]
    arena_bound_per_rank: tuple[int, ...]
    deferred_tokens_per_rank: tuple[int, ...]
    inbox_slots_per_rank: tuple[int, ...]
    loss_tokens: int

    @property
    def num_ticks(self) -> int:
        """Ticks of a step; even, since the scan body holds two."""
        return self.arrival_slot.shape[0]

    @property
    def num_ranks(self) -> int:
        """Ranks of the pipeline."""
        return self.arrival_slot.shape[1]

    @property
    def num_stages(self) -> int:
        """Groups of layers in all."""
        return self.num_ranks * self.stages_per_rank

    @property
    def num_chunks(self) -> int:
        """Slices of each sequence."""
        return len(self.chunk_lengths)

    @property
    def seq_len(self) -> int:
        """Tokens of a sequence."""
        return sum(self.chunk_lengths)

    @property
    def ops(self) -> tuple[Op, ...]:
        """Operations that occur, in the order F, B, I, W."""
        present = [op for code, op in LETTERS.items() if (self.actions.op == code).any()]
        return (*present, *[Op.W] * bool((self.weights.stage != NO_STAGE).any()))

    @property
    def forward_only(self) -> bool:
        """True for evaluation: no backward, nothing kept for one."""
        return self.ops == (Op.F,)

    @property
    def cache_tokens(self) -> int:
        """Keys and values that every rank allocates, in tokens: those of the fullest rank."""
        return max(self.cache_tokens_per_rank)

    @property
    def cache_bound(self) -> int:
        """Tokens that no packing of keys and values is below."""
        return max(self.cache_bound_per_rank)

    @property
    def num_prefix_slots(self) -> int:
        """Slots of key/value gradients that every rank allocates."""
        return max(self.prefix_slots_per_rank)

    @property
    def arena_tokens(self) -> int:
        """Arena that every rank allocates, in tokens: that of the rank that needs most."""
        return max(self.arena_tokens_per_rank)

    @property
    def arena_bound(self) -> int:
        """Tokens that no packing of residuals is below."""
        return max(self.arena_bound_per_rank)

    @property
    def deferred_tokens(self) -> int:
        """What every rank allocates for values between `I` and `W`, in tokens."""
        return max(self.deferred_tokens_per_rank)

    @property
    def num_inbox_slots(self) -> int:
        """Messages that every rank has room for."""
        return max(self.inbox_slots_per_rank)

    def pairs(self, tick: int) -> Pairs:
        """(source, destination) of the messages that travel in a tick."""
        ring, sent = self.stages_per_rank > 1, tick - self.exchange.late
        return self.exchange.pairs(sent % PERIOD, num_ranks=self.num_ranks, ring=ring)


def draw_table(table: TickTable) -> str:
    """Draw a tick table with one column per tick; a `W` follows the action of its tick.

    Example:
      >>> from seq1f1b_jax.schedule import draw_table, lower, make_plan
      >>> plan = make_plan("zb-h1", num_ranks=2, num_microbatches=2, num_chunks=1)
      >>> print(draw_table(lower(plan, [8])))
      rank 0  F0.0      ......... F1.0      I0.0+W0.0 ......... I1.0+W1.0
      rank 1  ......... F0.0      I0.0      F1.0      I1.0+W0.0 W1.0
    """
    rows: list[list[Cell]] = [[] for _ in range(table.num_ranks)]
    for tick, rank in np.ndindex(table.arrival_slot.shape):
        words = [action.text(rank) for action in cell_actions(table, tick, rank)]
        if words:
            rows[rank].append(Cell("+".join(words), tick))
    return draw(rows, num_columns=table.num_ticks)


def cell_actions(table: TickTable, tick: int, rank: int) -> tuple[Action, ...]:
    """The actions of one cell in the order in which they run: none, one, or one and a `W`."""
    where = tick, rank
    action, weights = table.actions, table.weights
    found = []
    if action.op[where] != NO_ACTION:
        unit = action.stage[where], action.microbatch[where], action.chunk[where]
        found.append(Action(LETTERS[int(action.op[where])], *map(int, unit)))
    if weights.stage[where] != NO_STAGE:
        unit = weights.stage[where], weights.microbatch[where], weights.chunk[where]
        found.append(Action(Op.W, *map(int, unit)))
    return tuple(found)
