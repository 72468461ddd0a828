"""The scan that interleaves forward and backward: one action per tick, one exchange per tick.

A tick is: at most one action that sends a message; the exchange with a neighbour, in one
`ppermute`; at most one `W`, which nothing waits for. Which ranks exchange in which tick is part of
the table (`schedule.exchange`). On a line of stages most schedules go by parity: in tick h only the
pairs (a, a+1) with a = h (mod 2) exchange, both ways. A permute couples its pairs only; ranks
elsewhere run ahead, and the step takes the time of asynchronous 1F1B:

    tick      0    1    2    3    4    5    6    7
    rank 0    F0   .    F1   .    F2   B0   F3   B1      ranks 0-1 exchange in even ticks,
    rank 1    .    F0   .    F1   B0   F2   B1   F3      ranks 1-2 in odd ticks

In lock-step every F reads what an F sent two ticks ago, and so do Bs. There a message travels late:
the exchange of tick h carries what tick h-1 has sent, beside the action of tick h.

The body of the scan holds the two ticks of the pattern; one stage exchanges nothing and needs one.

An action is a loop of zero or one trips that carries the state (see `control.run_if`). It contains
no collective over `pipe`: ranks disagree on which actions run.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.axes import PIPE
from seq1f1b_jax.pipeline.executor import buffers
from seq1f1b_jax.pipeline.executor.backward import backward, input_backward, weight_backward
from seq1f1b_jax.pipeline.executor.buffers import State
from seq1f1b_jax.pipeline.executor.chunk import Chunk, Inputs, Unit, WeightUnit
from seq1f1b_jax.pipeline.executor.control import run_if
from seq1f1b_jax.pipeline.executor.forward import forward
from seq1f1b_jax.pipeline.executor.initial import initial_state
from seq1f1b_jax.pipeline.executor.program import Program
from seq1f1b_jax.schedule import NO_STAGE, Exchange, Op, TickTable
from seq1f1b_jax.schedule.exchange import PERIOD
from seq1f1b_jax.schedule.lowering.table import NO_ACTION as EMPTY
from seq1f1b_jax.schedule.lowering.table import OP_CODES

DONE = -1
"""Code of an action: nothing to run, or nothing any more."""

Actions = Mapping[Op, Sequence[Callable]]
"""By operation and chunk. `F`, `B`, `I`: `(unit, state, message) -> (state, message)`;
`W`: `(unit, state) -> state`."""

ACTIONS: Mapping[Op, Callable] = {
    Op.F: forward,
    Op.B: backward,
    Op.I: input_backward,
    Op.W: weight_backward,
}


class Tick(NamedTuple):
    """One rank's cell of the tick table, as the scan reads it; int32 scalars but for the pages.

    Attributes:
      action: `DONE`, or the operation's index among those of the table times C, plus the chunk.
      unit: what it works on.
      inbox_slot: the message it consumes.
      arrival_slot: where the message that arrives in this tick goes.
      weight_action: `DONE`, or the chunk of a `W`.
      weight_unit: what that works on.
    """

    action: Int[Array, ""]
    unit: Unit
    inbox_slot: Int[Array, ""]
    arrival_slot: Int[Array, ""]
    weight_action: Int[Array, ""]
    weight_unit: WeightUnit


class Carry(NamedTuple):
    """What goes from tick to tick.

    `sent` is what the last tick's action sent, where messages travel late, else `None`.
    `pending` is the action still to run; every loop sets it and the next one reads it, so that
    loops run in their order. Where no message orders them (one stage), XLA was free to put a loop
    that reads the ring behind one that writes it, and copied the ring for that in every tick.
    """

    pending: Int[Array, ""]
    state: Any
    inbox: Float[Array, "S B T d"]
    sent: Float[Array, "B T d"] | None


def tick_columns(table: TickTable) -> Tick:
    """The tick table as the scan reads it: int32 leaves `[iterations, ticks of one, ranks, ...]`.

    The last dim is that of the chunks, for pages.
    """
    sending = [op for op in table.ops if op is not Op.W]
    actions, weights = table.actions, table.weights
    index = sum((actions.op == OP_CODES[op]) * number for number, op in enumerate(sending))
    action = np.where(actions.op == EMPTY, DONE, index * table.num_chunks + actions.chunk)
    weight_action = np.where(weights.stage == NO_STAGE, DONE, weights.chunk)
    columns = Tick(
        action=action,
        unit=Unit(*(getattr(actions, name) for name in Unit._fields)),
        inbox_slot=actions.inbox_slot,
        arrival_slot=table.arrival_slot,
        weight_action=weight_action,
        weight_unit=WeightUnit(*(getattr(weights, name) for name in WeightUnit._fields)),
    )
    shape = (-1, ticks_of_iteration(table), table.num_ranks)
    return jax.tree.map(lambda a: a.astype(np.int32).reshape(*shape, *a.shape[2:]), columns)


def ticks_of_iteration(table: TickTable) -> int:
    """Ticks in the body of the scan: those of the exchange's pattern, where there is any."""
    return PERIOD if table.num_ranks * table.stages_per_rank > 1 else 1


def sending_actions(table: TickTable, actions: Actions, phase: int) -> Mapping[int, Callable]:
    """By code of `Tick.action`, what may run in a tick of the pattern: in lock-step only F or B."""
    ops = [op for op in table.ops if op is not Op.W]
    numbered = enumerate((op, action) for op in ops for action in actions[op])
    split = table.exchange is Exchange.LOCKSTEP and ticks_of_iteration(table) == PERIOD
    here = [op for op in ops if not split or table.exchange.tick_class(op, 0) == phase]
    return {code: action for code, (op, action) in numbered if op in here}


def exchange(message: Float[Array, "..."], table: TickTable, tick: int) -> Array:
    """Swap messages with this tick's neighbours; what a rank without one holds is not read."""
    pairs = table.pairs(tick)
    return lax.ppermute(message, PIPE, pairs) if pairs else message


def run_schedule(
    program: Program,
    inputs: Inputs,
    *,
    wrap: Callable[[Actions], Actions] | None = None,
    exchange: Callable[[Array, TickTable, int], Array] = exchange,
) -> State:
    """Scan over the program's tick table. Runs inside `shard_map`; shapes are per device.

    Args:
      program: static facts.
      inputs: weights and tokens of this rank.
      wrap: wraps the actions, to measure them.
      exchange: see `run_ticks`.
    """
    chunks = [Chunk(program, index, inputs) for index in range(program.num_chunks)]
    actions = {op: [partial(ACTIONS[op], chunk) for chunk in chunks] for op in program.table.ops}
    blank = jnp.full(program.message_shape, program.blank, program.compute_dtype)
    actions = actions if wrap is None else wrap(actions)
    return run_ticks(program.table, actions, initial_state(program), blank, exchange=exchange)


def run_ticks(
    table: TickTable,
    actions: Actions,
    state: Any,
    blank: Float[Array, "B T d"],
    *,
    exchange: Callable[[Array, TickTable, int], Array] = exchange,
) -> Any:
    """Scan over a tick table with any actions. Runs inside `shard_map`.

    Args:
      table: lowered plan.
      actions: what to run, by operation and chunk.
      state: what the actions carry.
      blank: what a rank without an action sends, and what an inbox holds before a message arrives.
      exchange: `(message, table, tick) -> message`; another one measures another machine.

    Returns:
      The state after the last tick.
    """
    sending = [sending_actions(table, actions, phase) for phase in range(ticks_of_iteration(table))]
    run_iteration = partial(_iteration, table, sending, actions.get(Op.W, ()), blank, exchange)
    rank = lax.axis_index(PIPE)
    columns = jax.tree.map(lambda a: jnp.asarray(a)[:, :, rank], tick_columns(table))
    inbox = jnp.broadcast_to(blank, (table.num_inbox_slots, *blank.shape))
    start = Carry(jnp.int32(DONE), state, inbox, blank if table.exchange.late else None)
    return lax.scan(run_iteration, start, columns)[0].state


def _iteration(table, sending, weights, blank, exchange, carry: Carry, ticks: Tick):
    for phase in range(ticks_of_iteration(table)):
        tick = jax.tree.map(lambda column, phase=phase: column[phase], ticks)
        if table.exchange.late:
            arrived = exchange(carry.sent, table, phase)
            carry, slot = _run_beside(sending[phase], blank, carry, tick)
        else:
            carry, message = _run_action(sending[phase], blank, carry, tick)
            arrived, slot = exchange(message, table, phase), tick.arrival_slot
        carry = carry._replace(inbox=_deliver(carry.inbox, arrived, slot))
        carry = _run_weights(weights, carry, tick, arrived)
    return carry, None


def _run_action(
    sending: Mapping[int, Callable], blank: Array, carry: Carry, tick: Tick, *, nested: bool = False
):
    # `carry.pending` is DONE here, but XLA does not know: so each tick waits for the last one
    done = (tick.action + (carry.pending - DONE), carry.state, blank)

    def run_one(done):
        for code, action in sending.items():

            def act(done, action=action):
                message = _received(carry.inbox, tick.inbox_slot)
                return jnp.int32(DONE), *action(tick.unit, done[1], message)

            done = run_if(done[0] == code, act, done)
        return done

    pending, state, message = run_if(done[0] != DONE, run_one, done) if nested else run_one(done)
    return carry._replace(pending=pending, state=state), message


def _run_beside(sending: Mapping[int, Callable], blank: Array, carry: Carry, tick: Tick):
    """The action, while what was sent before it travels; and the slot for what arrives.

    Two dependences that XLA cannot know to be empty keep buffers apart. What travels is read once
    more after the action: else the action's message would get its memory, and wait for the
    exchange. The slot depends on the action, which reads its own message from the inbox first. And
    one loop stands around all: XLA:GPU let an exchange span three loops, with others before it.
    """
    after, message = _run_action(sending, blank, carry, tick, nested=len(sending) > 1)
    read = jnp.where(after.pending == DONE, 0, jnp.int32(carry.sent.ravel()[0]))
    pending = after.pending + read
    return after._replace(sent=message, pending=pending), tick.arrival_slot + (pending - DONE)


def _run_weights(weights: Sequence[Callable], carry: Carry, tick: Tick, message: Array) -> Carry:
    if not weights:
        return carry
    # A `W` must not delay a message that its neighbour waits for: it begins after the exchange.
    # Nothing else would say so, and XLA cannot know that the condition never holds.
    arrived = jnp.where(carry.pending == DONE, 0, jnp.int32(message.ravel()[0]))
    done = (tick.weight_action + (carry.pending - DONE) + arrived, carry.state)
    for code, action in enumerate(weights):

        def act(done, action=action):
            return jnp.int32(DONE), action(tick.weight_unit, done[1])

        done = run_if(done[0] == code, act, done)
    pending, state = done
    return carry._replace(pending=pending, state=state)


def _received(inbox: Array, slot: Array) -> Array:
    return inbox[0] if inbox.shape[0] == 1 else buffers.read(inbox, inbox.shape[1:], slot)


def _deliver(inbox: Array, message: Array, slot: Array) -> Array:
    return message[None] if inbox.shape[0] == 1 else buffers.write(inbox, message, slot)
