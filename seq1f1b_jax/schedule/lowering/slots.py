"""Where the values of a rank are stored: a slot or an offset for each, fixed before tracing.

residuals                 from F to B, or to W where the backward is split    tokens
loss gradients            from F of the last stage to its B or I              tokens
what I leaves to W        from I to W                                         tokens
keys and values           from F of the first chunk to its B or I             slots
their gradients           from B or I of the last chunk to that of the first  slots
messages                  from the tick after they were sent to their reader  slots
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.dependencies import message_source
from seq1f1b_jax.schedule.lowering.arena import Interval, allocate
from seq1f1b_jax.schedule.lowering.ticks import num_ticks
from seq1f1b_jax.schedule.plan import Plan


class Slots:
    """Slots and offsets of one rank, each kind by its own key, and the room each kind takes.

    Args:
      plan: a valid plan.
      rank: of the pipeline.
      ticks: of every action (`assign_ticks`).
      lengths: tokens of each chunk.
    """

    def __init__(
        self, plan: Plan, rank: int, ticks: Mapping[Action, int], lengths: Sequence[int]
    ) -> None:
        self.plan, self.rank, self.ticks, self.lengths = plan, rank, ticks, lengths
        self.backward = {  # action that gives the gradient of a forward's input
            replace(action, op=Op.F): action
            for action in plan.ranks[rank]
            if action.op in (Op.B, Op.I)
        }
        self.arena, self.arena_tokens = _allocate(self._residuals())
        self.loss, self.loss_tokens = _allocate(self._loss_gradients())
        self.deferred, self.deferred_tokens = _allocate(self._deferred())
        self.cache, self.num_cache_slots = _allocate(self._keys_and_values())
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

    def _keys_and_values(self) -> Iterator[tuple[tuple[int, int], Interval]]:
        """By stage and microbatch; from the first forward to the last reader."""
        for forward in self._first_chunks():
            last = self.backward.get(forward)
            if last is None:  # evaluation: the last chunk is the last reader
                last = replace(forward, chunk=self.plan.num_chunks - 1)
            yield sequence(forward), Interval(self.ticks[forward], self.ticks[last], 1)

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


def _allocate(lives: Iterator[tuple[object, Interval]]) -> tuple[dict, int]:
    """Offsets by key, and the room needed in all."""
    keyed = dict(lives)
    offsets, total = allocate(tuple(keyed.values()))
    return dict(zip(keyed, offsets, strict=True)), total
