"""CPU seconds of single actions of a pipelined step, and of attention, run alone.

An action alone does not wait, so on an idle machine its CPU seconds are its wall time; on a busy
one they are disturbed less.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate

import jax
import jax.numpy as jnp
import numpy as np

from seq1f1b_jax.ops.attention import AttentionBackend, Prefix
from seq1f1b_jax.pipeline import PipelineStep, Stage
from seq1f1b_jax.pipeline.executor.chunk import Chunk, Inputs, Unit
from seq1f1b_jax.pipeline.executor.initial import initial_state
from seq1f1b_jax.pipeline.executor.scan import ACTIONS
from seq1f1b_jax.pipeline.params.positions import take_out
from seq1f1b_jax.pipeline.stage import Params
from seq1f1b_jax.schedule import Op
from seq1f1b_jax.schedule.lowering.table import OP_CODES


def time_actions(
    step: PipelineStep, params: Params, batch: Sequence[np.ndarray]
) -> Callable[[], dict[str, list[float]]]:
    """Time every action of this process's stage once: CPU seconds per chunk, by operation.

    Functions, state and units are those of the step; the state is donated, as it is in the scan.
    """
    rank, program, table = jax.process_index(), step.program(1), step.table
    local = jax.tree.map(lambda leaf: leaf.addressable_data(0), params)
    layers = jax.tree.map(lambda leaf: leaf[0], local.layers)
    first, _ = take_out(local.first, program.position_tables)
    weights = local._replace(layers=layers, first=first, embedding=None, head=None)
    tables = {
        name: 0.02 * jax.random.normal(jax.random.key(1), shape.shape)
        for name, shape in program.table_shapes.items()
    }
    inputs = Inputs(weights, tables, *map(jnp.asarray, batch))
    message = jax.random.normal(jax.random.key(2), program.message_shape)
    state = jax.jit(partial(initial_state, program))()
    held = {"state": jax.device_put(state, jax.local_devices()[0])}  # sharded as the result

    def action(op: Op, chunk: int) -> Callable[[], float]:
        @partial(jax.jit, donate_argnums=0)
        def call(state, inputs, unit, message):
            return ACTIONS[op](Chunk(program, chunk, inputs), unit, state, message)

        here = (table.actions.op[:, rank] == OP_CODES[op]) & (table.actions.chunk[:, rank] == chunk)
        tick = int(np.flatnonzero(here)[0])
        unit = Unit(*(jnp.int32(getattr(table.actions, name)[tick, rank]) for name in Unit._fields))

        def run() -> float:
            start = time.process_time()
            held["state"], sent = call(held["state"], inputs, unit, message)
            jax.block_until_ready((held["state"], sent))
            return time.process_time() - start

        return run

    chunks = range(program.num_chunks)
    forwards = [action(Op.F, chunk) for chunk in chunks]
    backwards = [action(Op.B, chunk) for chunk in chunks]

    def run_all() -> dict[str, list[float]]:
        seconds = [run() for run in forwards]  # chunks ascending, then descending, as in the step
        return {"F": seconds, "B": [run() for run in reversed(backwards)][::-1]}

    return run_all


def time_attention(
    stage: Stage, backend: AttentionBackend, lengths: Sequence[int]
) -> Callable[[], float]:
    """CPU seconds of attention in one layer, forward and backward of one sequence, in chunks."""

    def both(q, k, v, prefix, dout):
        out, lse = backend.forward(q, k, v, prefix)
        return backend.backward(q, k, v, prefix, out, lse, dout)

    calls = []
    for offset, length in zip(accumulate(lengths, initial=0), lengths, strict=False):
        queries = (1, length, stage.num_heads, stage.head_dim)
        own, before = ((1, n, stage.num_kv_heads, stage.head_dim) for n in (length, offset))
        shapes = (queries, own, own, queries, before, before)
        q, k, v, dout, *before = (
            jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)
        )
        prefix = Prefix(*before) if offset else None
        calls.append((jax.jit(both), (q, k, v, prefix, dout)))

    def run_all() -> float:
        start = time.process_time()
        for call, arguments in calls:
            jax.block_until_ready(call(*arguments))
        return time.process_time() - start

    return run_all
