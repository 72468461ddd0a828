"""A machine that runs a tick table on symbols instead of numbers, and checks whatever it reads.

Each rank has what the executor gives it: an incoming message, an arena of residuals, a key/value
cache, one buffer of prefix gradients and an accumulator of weight gradients. A value is the name of
the unit it belongs to, so reading what another unit has overwritten, what was never written, or a
message that is not there is seen at once. Every tick ends with the exchange by parity.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.schedule.actions import Op
from seq1f1b_jax.schedule.table import BACKWARD, FORWARD, IDLE, TickTable

Message = tuple[Op, int, int]
"""Who sent it: a forward or a backward, of which microbatch and chunk."""


class ReplayError(ValueError):
    """A tick table under which an action reads a wrong value."""


@dataclass
class _Rank:
    """The buffers of one rank.

    Attributes:
      arena: for each token of residuals the name of the unit that wrote it; 0 where none did.
      cache: for each (slot, chunk) the microbatch whose keys and values stand there.
      prefix_gradients: for each chunk the units that added to the gradients of its keys and values.
      forwards: units forwarded so far.
      accumulated: units whose weight gradients were added.
      incoming: the message that came in the tick before.
    """

    arena: NDArray[np.int64]
    cache: dict[tuple[int, int], int] = field(default_factory=dict)
    prefix_gradients: dict[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    forwards: list[tuple[int, int]] = field(default_factory=list)
    accumulated: list[tuple[int, int]] = field(default_factory=list)
    incoming: Message | None = None


class _Cell(NamedTuple):
    """One action of the table."""

    tick: int
    rank: int
    op: int
    microbatch: int
    chunk: int
    slot: int
    offset: int


def replay(table: TickTable) -> None:
    """Run a tick table on symbols.

    Args:
      table: of any origin.

    Raises:
      ReplayError: an action reads a message, residuals, keys and values or gradients of another
        unit or of none; a place lies outside its buffer; or a unit is left out or run twice.
    """
    ranks = [_Rank(np.zeros(tokens, np.int64)) for tokens in table.arena_tokens_per_rank]
    for tick in range(table.num_ticks):
        outgoing = [_run(table, tick, rank, ranks[rank]) for rank in range(table.num_stages)]
        _exchange(ranks, outgoing, tick)
    _check_finished(table, ranks)


def _exchange(ranks: Sequence[_Rank], outgoing: Sequence[Message | None], tick: int) -> None:
    """Swap the messages of the pairs (a, a+1) with a = tick (mod 2); all others get nothing."""
    for rank in ranks:
        rank.incoming = None
    for above in range(tick % 2, len(ranks) - 1, 2):
        ranks[above].incoming = outgoing[above + 1]
        ranks[above + 1].incoming = outgoing[above]


def _run(table: TickTable, tick: int, rank: int, state: _Rank) -> Message | None:
    arrays = (table.op, table.microbatch, table.chunk, table.cache_slot, table.arena_offset)
    cell = _Cell(tick, rank, *(int(array[tick, rank]) for array in arrays))
    if cell.op == IDLE:
        return None
    _expect_inside(cell.op, BACKWARD + 1, cell, "operation")
    _expect_inside(cell.slot, table.cache_slots_per_rank[rank], cell, "cache slot")
    _expect_inside(cell.chunk, table.num_chunks, cell, "chunk")
    _expect_inside(cell.microbatch, table.num_microbatches, cell, "microbatch")
    if cell.op == FORWARD:
        _expect_message(cell, state, Op.F, sender=rank - 1, num_stages=table.num_stages)
        _forward(table, cell, state)
        return Op.F, cell.microbatch, cell.chunk
    _expect_message(cell, state, Op.B, sender=rank + 1, num_stages=table.num_stages)
    _backward(table, cell, state)
    return Op.B, cell.microbatch, cell.chunk


def _expect_message(cell: _Cell, state: _Rank, op: Op, *, sender: int, num_stages: int) -> None:
    if 0 <= sender < num_stages:
        _expect(state.incoming, (op, cell.microbatch, cell.chunk), cell, "message")


def _forward(table: TickTable, cell: _Cell, state: _Rank) -> None:
    state.cache[cell.slot, cell.chunk] = cell.microbatch
    _expect_prefix(cell, state)
    if not table.forward_only:
        _residuals(table, cell, state)[:] = _name(table, cell)
    state.forwards.append((cell.microbatch, cell.chunk))


def _backward(table: TickTable, cell: _Cell, state: _Rank) -> None:
    kept = np.unique(_residuals(table, cell, state)).tolist()
    _expect(kept, [_name(table, cell)], cell, "residuals")
    _expect_prefix(cell, state)
    # The last chunk sets the prefix gradients, the others add to them.
    unit = (cell.microbatch, cell.chunk)
    for chunk in range(cell.chunk + 1):
        before = () if cell.chunk == table.num_chunks - 1 else state.prefix_gradients.get(chunk, ())
        state.prefix_gradients[chunk] = (*before, unit)
    readers = tuple((cell.microbatch, c) for c in range(table.num_chunks - 1, cell.chunk - 1, -1))
    _expect(state.prefix_gradients[cell.chunk], readers, cell, "key/value gradients")
    state.accumulated.append(unit)


def _residuals(table: TickTable, cell: _Cell, state: _Rank) -> NDArray[np.int64]:
    """Return the view of the arena that belongs to the unit."""
    end = cell.offset + table.chunk_lengths[cell.chunk]
    _expect_inside(cell.offset, state.arena.size, cell, "first arena token")
    _expect_inside(end - 1, state.arena.size, cell, "last arena token")
    return state.arena[cell.offset : end]


def _name(table: TickTable, cell: _Cell) -> int:
    """Number the units from 1."""
    return 1 + cell.microbatch * table.num_chunks + cell.chunk


def _expect_prefix(cell: _Cell, state: _Rank) -> None:
    prefix = [state.cache.get((cell.slot, chunk)) for chunk in range(cell.chunk + 1)]
    _expect(prefix, [cell.microbatch] * (cell.chunk + 1), cell, "keys and values of microbatches")


def _expect_inside(index: int, size: int, cell: _Cell, what: str) -> None:
    if not 0 <= index < size:
        _expect(index, f"0 to {size - 1}", cell, what)


def _expect(found: object, expected: object, cell: _Cell, what: str) -> None:
    if found != expected:
        op = "B" if cell.op == BACKWARD else "F"
        raise ReplayError(
            f"tick {cell.tick}, rank {cell.rank}, {op}{cell.microbatch}.{cell.chunk}:"
            f" {what}: expected {expected}, found {found}"
        )


def _check_finished(table: TickTable, ranks: Sequence[_Rank]) -> None:
    units = [(m, c) for m in range(table.num_microbatches) for c in range(table.num_chunks)]
    for rank, state in enumerate(ranks):
        backwards = [] if table.forward_only else units
        for done, due, what in (
            (state.forwards, units, "forwards"),
            (state.accumulated, backwards, "backwards"),
        ):
            if sorted(done) != due:
                raise ReplayError(f"rank {rank} ran the {what} of {sorted(done)}, not of {due}")
