"""The scan that interleaves forward and backward: one action per tick, one exchange per tick.

In tick h only the pairs (a, a+1) with a = h (mod 2) exchange, both ways in one `ppermute`. Rank p
runs F in ticks = p (mod 2) and B in the others, so of a pair the upper rank has just run F and
sends an activation down, the lower one has just run B and sends a gradient up. A permute couples
its pairs only; ranks elsewhere run ahead, and the step takes the time of asynchronous 1F1B:

    tick      0    1    2    3    4    5    6    7
    rank 0    F0   .    F1   .    F2   B0   F3   B1      ranks 0-1 exchange in even ticks,
    rank 1    .    F0   .    F1   B0   F2   B1   F3      ranks 1-2 in odd ticks

An action is a loop of zero or one trips that carries the state (see `control.run_if`). No
collective over `pipe` stands inside an action: ranks disagree on which actions run.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from seq1f1b_jax.pipeline.buffers import Gradients, State
from seq1f1b_jax.pipeline.control import run_if
from seq1f1b_jax.pipeline.layout import AXIS
from seq1f1b_jax.pipeline.program import Program
from seq1f1b_jax.pipeline.stage import Params
from seq1f1b_jax.pipeline.unit import Chunk, Inputs, Unit
from seq1f1b_jax.pipeline.vocabulary import gather_tables, scatter_gradients

FIELDS = ("action", "microbatch", "cache_slot", "arena_offset")
IDLE = -1


class Tick(NamedTuple):
    """One rank's cell: `action` is `IDLE`, the chunk for F, `num_chunks` plus the chunk for B."""

    action: Int[Array, ""]
    unit: Unit


class Carry(NamedTuple):
    """What goes from tick to tick.

    `pending` is the action still to run; every loop sets it and the next one reads it, so that
    loops run in their order. Where no message orders them (one stage), XLA was free to put a loop
    that reads the ring behind one that writes it, and copied the ring for that in every tick.
    """

    pending: Int[Array, ""]
    state: State
    message: Float[Array, "B T d"]


def tick_columns(program: Program) -> Int[np.ndarray, "double_ticks 2 ranks fields"]:
    """The tick table as the scan reads it, two ticks per step."""
    table = program.table
    action = np.select(
        [table.op == 1, table.op == 2], [table.chunk, program.num_chunks + table.chunk], IDLE
    )
    fields = np.stack(
        [action, table.microbatch, table.cache_slot, table.arena_offset], axis=-1
    ).astype(np.int32)
    return fields.reshape(-1, 2, *fields.shape[1:])


def exchange_pairs(parity: int, num_stages: int) -> list[tuple[int, int]]:
    """Source and destination of the messages of a tick: pairs (a, a+1), a = parity (mod 2)."""
    upper = range(parity, num_stages - 1, 2)
    return [(a, a + 1) for a in upper] + [(a + 1, a) for a in upper]


def exchange(message: Float[Array, "B T d"], parity: int, num_stages: int) -> Array:
    """Swap messages with this tick's neighbour; what ranks without one hold, nobody reads."""
    pairs = exchange_pairs(parity, num_stages)
    return lax.ppermute(message, AXIS, pairs) if pairs else message


def run_schedule(program: Program, inputs: Inputs) -> State:
    """Scan over the tick table. Runs inside `shard_map`; shapes are per device."""
    chunks = [Chunk(program, index, inputs) for index in range(program.num_chunks)]
    actions = [chunk.forward for chunk in chunks]
    if program.train:
        actions += [chunk.backward for chunk in chunks]
    idle = jnp.full(program.message_shape, program.fill, program.compute_dtype)

    def run_tick(carry: Carry, tick: Tick) -> Carry:
        # `carry.pending` is IDLE here, but XLA does not know: so each tick waits for the last one
        pending = tick.action + (carry.pending - IDLE)
        done = (pending, carry.state, idle)
        for code, action in enumerate(actions):

            def act(done, action=action):
                return jnp.int32(IDLE), *action(tick.unit, done[1], carry.message)

            done = run_if(done[0] == code, act, done)
        return Carry(*done)

    def double_tick(carry: Carry, fields):
        for parity in (0, 1):
            action, *unit = fields[parity]
            carry = run_tick(carry, Tick(action, Unit(*unit)))
            message = exchange(carry.message, parity, program.layout.num_stages)
            carry = carry._replace(message=message)
        return carry, None

    columns = jnp.asarray(tick_columns(program))[:, :, lax.axis_index(AXIS)]
    start = Carry(jnp.int32(IDLE), program.initial_state(), idle)
    return lax.scan(double_tick, start, columns)[0].state


def prepare_inputs(
    program: Program, params: Params, tokens: Int[Array, "M B T"], targets: Int[Array, "M B T"]
) -> Inputs:
    """Compute copies of this rank's weights, cast once per step and outside every vjp."""
    cast = jax.tree.map(lambda leaf: leaf.astype(program.compute_dtype), params)
    tables = gather_tables(cast.embedding, cast.head, program.layout)
    weights = cast._replace(
        layers=jax.tree.map(lambda leaf: leaf[0], cast.layers), embedding=None, head=None
    )
    return Inputs(weights, tables, tokens, targets)


def collect_gradients(program: Program, grads: Gradients) -> Params:
    """Gradients in the layout of the parameters; small trees are summed over stages."""
    embedding, head = scatter_gradients(grads.tables, program.layout)
    return Params(
        layers=jax.tree.map(lambda leaf: leaf[None], grads.layers),
        first=lax.psum(grads.first, AXIS),
        last=lax.psum(grads.last, AXIS),
        embedding=embedding,
        head=head,
    )
