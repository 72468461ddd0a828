"""Where the values of a rank are stored: a slot or an offset for each, fixed before tracing.

residuals                 from F to B, or to W where the backward is split    tokens
loss gradients            from F of the last stage to its B or I              tokens
what I leaves to W        from I to W                                         tokens
keys and values           from F to B or I; evaluation: to F of the last chunk  tokens
their gradients           from B or I of the last chunk to that of the first  slots
messages                  from the tick after they were sent to their reader  slots
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.dependencies import message_source
from seq1f1b_jax.schedule.lowering.arena import allocate, peak_load
from seq1f1b_jax.schedule.lowering.blocks import Owner
from seq1f1b_jax.schedule.lowering.packing import Interval
from seq1f1b_jax.schedule.lowering.ticks import num_ticks
from seq1f1b_jax.schedule.plan import Plan, peak_units


class Room(NamedTuple):
    """Tokens that one rank takes, and that the others may take as well without harm.

    Attributes:
      arena: for residuals.
      deferred: for what `I` leaves to `W`.
      cache: for keys and values.
    """

    arena: int = 0
    deferred: int = 0
    cache: int = 0

    def at_least(self, other: "Room") -> "Room":
        """The larger of each."""
        return Room(*map(max, self, other))


def slots_of_ranks(
    plan: Plan, ticks: Mapping[Action, int], lengths: Sequence[int]
) -> list["Slots"]:
    """Slots and offsets of every rank, the fullest rank first.

    All ranks allocate what the fullest one takes, so the others need not be packed any better.
    """
    room, by_rank = Room(), {}
    peaks = peak_units(plan)
    for rank in sorted(range(plan.num_ranks), key=lambda rank: -peaks[rank]):
        slots = by_rank[rank] = Slots(plan, rank, ticks, lengths, room)
        room = room.at_least(slots.room)
    return [by_rank[rank] for rank in range(plan.num_ranks)]


class Slots:
    """Slots and offsets of one rank, each kind by its own key, and the room each kind takes.

    Args:
      plan: a valid plan.
      rank: of the pipeline.
      ticks: of every action (`assign_ticks`).
      lengths: tokens of each chunk.
      enough: tokens that may be taken in any case.
    """

    def __init__(
        self,
        plan: Plan,
        rank: int,
        ticks: Mapping[Action, int],
        lengths: Sequence[int],
        enough: Room,
    ) -> None:
        self.plan, self.rank, self.ticks, self.lengths = plan, rank, ticks, lengths
        self.backward = {  # action that gives the gradient of a forward's input
            replace(action, op=Op.F): action
            for action in plan.ranks[rank]
            if action.op in (Op.B, Op.I)
        }
        residuals, keys_and_values = dict(self._residuals()), dict(self._keys_and_values())
        self.arena, arena_tokens = _pack(residuals, enough.arena)
        self.arena_bound = peak_load(tuple(residuals.values()))
        self.loss, self.loss_tokens = _pack(dict(self._loss_gradients()))
        self.deferred, deferred_tokens = _pack(dict(self._deferred()), enough.deferred)
        # keys and values live as long as the residuals unless a `W` keeps the latter
        cache = self.arena, arena_tokens
        if keys_and_values != residuals:
            cache = _pack(keys_and_values, enough.cache)
        self.cache_bound = peak_load(tuple(keys_and_values.values()))
        self.room = Room(arena_tokens, deferred_tokens, cache[1])
        self.pages = self._pages(cache[0])
        self.prefix, self.num_prefix_slots = _allocate(self._prefix_gradients())
        self.inbox, self.num_inbox_slots = _allocate(self._messages())

    def end(self, forward: Action) -> Action:
        """The last action that reads a unit's residuals: its `B`, or its `W`."""
        backward = self.backward[forward]
        return replace(backward, op=Op.W) if backward.op is Op.I else backward

    def _residuals(self) -> Iterator[tuple[Action, Interval]]:
        """By forward; from forward to the end of the backward."""
        for forward in self.backward:
            first, last = self.ticks[forward], self.ticks[self.end(forward)]
            yield forward, Interval(first, last, self.lengths[forward.chunk])

    def _loss_gradients(self) -> Iterator[tuple[Action, Interval]]:
        """By forward of the last stage; from there to its backward."""
        for forward, backward in self.backward.items():
            if forward.stage == self.plan.num_stages - 1:
                first, last = self.ticks[forward], self.ticks[backward]
                yield forward, Interval(first, last, self.lengths[forward.chunk])

    def _deferred(self) -> Iterator[tuple[Action, Interval]]:
        """By forward; from `I` to `W`."""
        for forward, backward in self.backward.items():
            if backward.op is Op.I:
                first, last = self.ticks[backward], self.ticks[self.end(forward)]
                yield forward, Interval(first, last, self.lengths[forward.chunk])

    def _keys_and_values(self) -> Iterator[tuple[Action, Interval]]:
        """By forward; from there to its backward, the last one that reads this chunk's."""
        last_chunk = self.plan.num_chunks - 1
        for forward in self.plan.ranks[self.rank]:
            if forward.op is Op.F:
                last = self.backward.get(forward, replace(forward, chunk=last_chunk))
                first, last = self.ticks[forward], self.ticks[last]
                yield forward, Interval(first, last, self.lengths[forward.chunk])

    def _pages(self, cache: Mapping[Action, int]) -> dict[tuple[int, int], tuple[int, ...]]:
        """By stage and microbatch; where each chunk's keys and values begin."""
        pages: dict[tuple[int, int], list[int]] = {}
        for forward in sorted(cache, key=lambda forward: forward.chunk):
            pages.setdefault(sequence(forward), []).append(cache[forward])
        return {key: tuple(offsets) for key, offsets in pages.items()}

    def _prefix_gradients(self) -> Iterator[tuple[tuple[int, int], Interval]]:
        """By stage and microbatch; from the backward of the last chunk to that of the first."""
        if self.plan.num_chunks == 1:
            return
        for forward in self._first_chunks():
            if forward in self.backward:
                first = self.backward[replace(forward, chunk=self.plan.num_chunks - 1)]
                last = self.backward[forward]
                yield sequence(forward), Interval(self.ticks[first], self.ticks[last], 1)

    def _first_chunks(self) -> Iterator[Action]:
        return (a for a in self.plan.ranks[self.rank] if a.op is Op.F and a.chunk == 0)

    def _messages(self) -> Iterator[tuple[Action | int, Interval]]:
        """By reader, or by tick where nothing reads: every tick writes what arrives somewhere."""
        read: dict[int, Action] = {}  # tick of arrival -> reader
        for action in self.plan.ranks[self.rank]:
            source = self._source(action)
            if source is not None:
                read[self._arrival(source)] = action
        for tick in range(num_ticks(self.ticks)):
            reader = read.get(tick)
            last = tick + 1 if reader is None else self.ticks[reader]
            yield tick if reader is None else reader, Interval(tick + 1, last, 1)

    def arrival_slots(self) -> list[int]:
        """Inbox slot of what arrives, by tick."""
        slots = [0] * num_ticks(self.ticks)
        for key, slot in self.inbox.items():
            tick = key if isinstance(key, int) else self._arrival(self._source(key))
            slots[tick] = slot
        return slots

    def _source(self, action: Action) -> Action | None:
        return message_source(action, num_stages=self.plan.num_stages)

    def _arrival(self, event: Action) -> int:
        """Tick in which the message of an event travels."""
        half = replace(event, op=Op.I)
        sent = self.ticks[event] if event in self.ticks else self.ticks[half]
        return sent + self.plan.exchange.late


def sequence(action: Action) -> tuple[int, int]:
    """The stage and the microbatch: what keys and values go by."""
    return action.stage, action.microbatch


def _pack(lives: Mapping[Action, Interval], enough: int = 0) -> tuple[dict[Action, int], int]:
    """Offsets of units' values by their forward, and the room needed in all."""
    owners = tuple(Owner(a.stage, a.microbatch, a.chunk) for a in lives)
    offsets, total = allocate(tuple(lives.values()), owners=owners, enough=enough)
    return dict(zip(lives, offsets, strict=True)), total


def _allocate(lives: Iterator[tuple[object, Interval]]) -> tuple[dict, int]:
    """Slots by key, and how many there are."""
    keyed = dict(lives)
    slots, total = allocate(tuple(keyed.values()))
    return dict(zip(keyed, slots, strict=True)), total
