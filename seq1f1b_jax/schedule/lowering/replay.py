"""A machine that runs a tick table on symbols instead of numbers, and checks whatever it reads.

Each rank has what the executor gives it:

    inbox              slots, one message each
    residuals          tokens, from a unit's F to its B, or to its W
    loss gradients     tokens, from F of the last stage to its B or I
    deferred           tokens, from I to W
    cache              tokens of keys and values, from a unit's F to its last reader
    prefix gradients   slots of the gradients of those, each with room for every chunk

and counts whose weight gradients it has added up. A symbol is the name of the action that wrote it,
so a read of what another unit has overwritten, of what was never written, or of a message that has
not come is found at once. A tick is: the action, the exchange by the table's pairs, the `W`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.dependencies import message_source
from seq1f1b_jax.schedule.lowering.table import (
    LETTERS,
    NO_ACTION,
    NO_STAGE,
    TickTable,
    cell_actions,
)

Symbol = str
"""The action that wrote the value, always with its stage: `F2.1@3`."""

GARBAGE = "garbage"
"""What arrives from a rank that sent nothing, and what is stored where nothing was written."""


class ReplayError(ValueError):
    """A tick table under which an action reads a wrong value."""


@dataclass
class _Rank:
    """The buffers of one rank.

    Attributes:
      forward_only: whether nothing is kept for a backward.
      inbox: by slot, the message.
      residuals: by token, the forward that wrote them.
      loss: by token, the forward that wrote the loss gradient.
      deferred: by token, the `I` that wrote them.
      cache: by token, the forward that wrote the keys and values there.
      prefix: by (slot, chunk), the backwards that added to the gradients of its keys and values.
      forwards: (stage, microbatch, chunk) of every forward, in order.
      inputs: of every `B` and `I`.
      weights: of every `B` and `W`.
    """

    forward_only: bool
    inbox: list[Symbol]
    residuals: list[Symbol]
    loss: list[Symbol]
    deferred: list[Symbol]
    cache: list[Symbol]
    prefix: dict[tuple[int, int], tuple[Symbol, ...]] = field(default_factory=dict)
    forwards: list[tuple[int, int, int]] = field(default_factory=list)
    inputs: list[tuple[int, int, int]] = field(default_factory=list)
    weights: list[tuple[int, int, int]] = field(default_factory=list)


def replay(table: TickTable) -> None:
    """Run a tick table on symbols.

    Args:
      table: of any origin.

    Raises:
      ReplayError: an action reads a message, residuals, keys and values or gradients of another
        unit or of none; a slot or an offset is outside its buffer; or a unit is left out or run
        twice.
    """
    ranks = [_empty(table, rank) for rank in range(table.num_ranks)]
    sent = [GARBAGE] * table.num_ranks
    for tick in range(table.num_ticks):
        cells = [_cell(table, tick, rank) for rank in range(table.num_ranks)]
        before, sent = sent, [_send(cell, rank) for cell, rank in zip(cells, ranks, strict=True)]
        _exchange(table, tick, ranks, before if table.exchange.late else sent)
        for cell, state in zip(cells, ranks, strict=True):
            if cell.weights is not None:
                _weights(cell.weights, state)
    _check_finished(table, ranks)


class _Entry(NamedTuple):
    """An action and its cell in the table."""

    table: TickTable
    tick: int
    rank: int
    action: Action

    def name(self, op: Op, chunk: int | None = None) -> Symbol:
        """Symbol of an operation on the same stage and microbatch, and chunk unless given."""
        own = self.action
        return _name(Action(op, own.stage, own.microbatch, own.chunk if chunk is None else chunk))

    def expect(self, found: object, expected: object, what: str) -> None:
        """Compare what was read with what should be there."""
        if found != expected:
            raise ReplayError(
                f"tick {self.tick}, rank {self.rank}, {_name(self.action)}: {what}:"
                f" expected {expected}, found {found}"
            )

    def index(self, column: str, size: int, *page: int) -> int:
        """Read a slot or an offset off the table; it must be inside its buffer."""
        columns = self.table.weights if self.action.op is Op.W else self.table.actions
        index = int(getattr(columns, column)[(self.tick, self.rank, *page)])
        if not 0 <= index < size:
            self.expect(index, f"0 to {size - 1}", column)
        return index

    def tokens(self, column: str, buffer: Sequence[Symbol], *page: int) -> slice:
        """Tokens of the unit, or of a page, in a buffer, from the offset in the table."""
        start = self.index(column, len(buffer), *page)
        chunk = page[0] if page else self.action.chunk
        end = start + self.table.chunk_lengths[chunk]
        if end > len(buffer):
            self.expect(end, f"at most {len(buffer)}", f"end of the tokens at {column}")
        return slice(start, end)

    def write(self, column: str, buffer: list[Symbol], *page: int) -> None:
        """Leave a name on every token of the unit."""
        tokens = self.tokens(column, buffer, *page)
        buffer[tokens] = [_name(self.action)] * (tokens.stop - tokens.start)

    def read(self, column: str, buffer: Sequence[Symbol], writer: Op, *page: int) -> None:
        """Check that every token of the unit, or of a page, still bears the name of its writer."""
        found = sorted(set(buffer[self.tokens(column, buffer, *page)]))
        self.expect(found, [self.name(writer, *page)], f"values at {column}")


class _Cell(NamedTuple):
    """What a rank does in a tick: at most one action that sends, and at most one `W`."""

    sender: _Entry | None
    weights: _Entry | None


def _cell(table: TickTable, tick: int, rank: int) -> _Cell:
    code = int(table.actions.op[tick, rank])
    if code != NO_ACTION and code not in LETTERS:
        raise ReplayError(f"tick {tick}, rank {rank}: op={code} is not one of 0 to {len(LETTERS)}")
    entries = [_Entry(table, tick, rank, action) for action in cell_actions(table, tick, rank)]
    for entry in entries:
        entry.index("stage", table.num_stages)
        entry.index("microbatch", table.num_microbatches)
        entry.index("chunk", table.num_chunks)
        entry.expect(entry.action.stage % table.num_ranks, rank, "rank of the stage")
    sender = next((entry for entry in entries if entry.action.op is not Op.W), None)
    return _Cell(sender, next((entry for entry in entries if entry.action.op is Op.W), None))


def _empty(table: TickTable, rank: int) -> _Rank:
    last = rank == table.num_ranks - 1
    return _Rank(
        forward_only=table.forward_only,
        inbox=[GARBAGE] * table.inbox_slots_per_rank[rank],
        residuals=[GARBAGE] * table.arena_tokens_per_rank[rank],
        loss=[GARBAGE] * (table.loss_tokens if last else 0),
        deferred=[GARBAGE] * table.deferred_tokens_per_rank[rank],
        cache=[GARBAGE] * table.cache_tokens_per_rank[rank],
    )


def _name(action: Action) -> Symbol:
    return action.text(rank=NO_STAGE)


def _exchange(table: TickTable, tick: int, ranks: Sequence[_Rank], sent: Sequence[Symbol]) -> None:
    """Every rank writes to its inbox, whatever has come."""
    arrived = [GARBAGE] * table.num_ranks
    for source, destination in table.pairs(tick):
        arrived[destination] = sent[source]
    for rank, state in enumerate(ranks):
        slot = int(table.arrival_slot[tick, rank])
        if not 0 <= slot < len(state.inbox):
            raise ReplayError(
                f"tick {tick}, rank {rank}: arrival_slot: expected 0 to {len(state.inbox) - 1},"
                f" found {slot}"
            )
        state.inbox[slot] = arrived[rank]


def _send(cell: _Cell, state: _Rank) -> Symbol:
    """Run the action of a cell, and return its message."""
    entry = cell.sender
    if entry is None:
        return GARBAGE
    source = message_source(entry.action, num_stages=entry.table.num_stages)
    if source is not None:
        message = state.inbox[entry.index("inbox_slot", len(state.inbox))]
        entry.expect(message, _name(source), "message")
    (_forward if entry.action.op is Op.F else _backward)(entry, state)
    return _name(entry.action.event)


def _forward(entry: _Entry, state: _Rank) -> None:
    action = entry.action
    entry.write("cache_pages", state.cache, action.chunk)
    _read_cache(entry, state)
    if not state.forward_only:
        entry.write("arena_offset", state.residuals)
        if _is_last(entry):
            entry.write("loss_offset", state.loss)
    state.forwards.append(_unit(action))


def _backward(entry: _Entry, state: _Rank) -> None:
    """A `B`, or an `I`, which leaves the weight gradients to its `W`."""
    table, action = entry.table, entry.action
    entry.read("arena_offset", state.residuals, Op.F)
    if _is_last(entry):
        entry.read("loss_offset", state.loss, Op.F)
    _read_cache(entry, state)
    if table.num_chunks > 1:  # a single chunk has no keys and values from others
        _add_prefix_gradients(entry, state)
    state.inputs.append(_unit(action))
    if action.op is Op.I:
        entry.write("deferred_offset", state.deferred)
    else:
        state.weights.append(_unit(action))


def _add_prefix_gradients(entry: _Entry, state: _Rank) -> None:
    """The last chunk sets the gradients of all keys and values before it, the others add."""
    chunk, last_chunk = entry.action.chunk, entry.table.num_chunks - 1
    slot = entry.index("prefix_slot", entry.table.prefix_slots_per_rank[entry.rank])
    for earlier in range(chunk + 1):
        before = () if chunk == last_chunk else state.prefix.get((slot, earlier), ())
        state.prefix[slot, earlier] = (*before, entry.name(Op.B))
    readers = tuple(entry.name(Op.B, chunk=later) for later in range(last_chunk, chunk - 1, -1))
    entry.expect(state.prefix[slot, chunk], readers, "gradients of keys and values")


def _weights(entry: _Entry, state: _Rank) -> None:
    entry.read("arena_offset", state.residuals, Op.F)
    entry.read("deferred_offset", state.deferred, Op.I)
    state.weights.append(_unit(entry.action))


def _read_cache(entry: _Entry, state: _Rank) -> None:
    """Keys and values of the chunks before it, and its own."""
    for chunk in range(entry.action.chunk + 1):
        entry.read("cache_pages", state.cache, Op.F, chunk)


def _is_last(entry: _Entry) -> bool:
    return entry.action.stage == entry.table.num_stages - 1


def _unit(action: Action) -> tuple[int, int, int]:
    return action.stage, action.microbatch, action.chunk


def _check_finished(table: TickTable, ranks: Sequence[_Rank]) -> None:
    for rank, state in enumerate(ranks):
        stages = range(rank, table.num_stages, table.num_ranks)
        sizes = len(stages), table.num_microbatches, table.num_chunks
        units = [(stages[i], m, c) for i, m, c in np.ndindex(sizes)]
        kept = [] if state.forward_only else units
        for done, due, what in (
            (state.forwards, units, "forwards"),
            (state.inputs, kept, "input gradients"),
            (state.weights, kept, "weight gradients"),
        ):
            if sorted(done) != due:
                raise ReplayError(f"rank {rank} ran the {what} of {sorted(done)}, not of {due}")
