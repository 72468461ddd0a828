"""Seconds of F and B of every chunk on one stage, alone: two wide layers, next to no head."""

from functools import partial
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as Spec

from benchmarks.common import cases, report
from benchmarks.common.cases import Size
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import time_calls
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline.executor.chunk import Chunk, Unit
from seq1f1b_jax.pipeline.executor.initial import state_shapes
from seq1f1b_jax.pipeline.executor.scan import ACTIONS
from seq1f1b_jax.pipeline.weights import prepare_inputs
from seq1f1b_jax.schedule import Op, StageCost, balanced_lengths
from seq1f1b_jax.schedule.lowering.table import OP_CODES

LAYERS, VOCAB_SIZE, BLOCK = 2, 256, 128


def submit(run: Run) -> Any:
    """Compile F and B of every chunk; returns the step that they are of."""
    preset, seq_len = run.sizes.stage
    stage = build_stage("llama", preset=preset, num_layers=LAYERS, vocab_size=VOCAB_SIZE)
    cost = StageCost.of(stage, (LAYERS,), recompute="selective")
    block = BLOCK if seq_len > BLOCK * run.sizes.stage_chunks else 1
    lengths = balanced_lengths(seq_len, run.sizes.stage_chunks, cost, block=block)
    size = Size(
        1, 1, len(lengths), seq_len, recompute="selective", attention="auto",
        compute_dtype=jnp.bfloat16,
    )  # fmt: skip
    step = cases.pipelined(stage, size, lengths=lengths)
    shapes = jax.eval_shape(_inputs(step), *_arguments(step))
    for op in (Op.F, Op.B):
        for chunk in range(len(lengths)):
            lower = partial(_action(step, op, chunk).lower, *_state(step), shapes)
            run.programs.submit(_name(op, chunk), lower)
    return step


def measure(run: Run, step: Any) -> None:
    """Time them; rows under `stage`."""
    stage, lengths, rows = step.stage, step.table.chunk_lengths, []
    params, tokens, targets = _arguments(step)
    inputs = jax.jit(_inputs(step))(cases.fresh_params(step), tokens, targets)
    state, message = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), _state(step)[::2])
    held = {"state": state}
    cost = StageCost.of(stage, (LAYERS,), recompute="selective")
    flops = {Op.F: cost.forward, Op.B: cost.backward}
    for chunk, (start, length) in enumerate(
        zip(accumulate(lengths, initial=0), lengths, strict=False)
    ):
        row: dict[str, Any] = {"chunk": chunk, "tokens": length, "offset": start}
        for op in (Op.F, Op.B):
            timing = run.case(_name(op, chunk), lambda op=op, c=chunk: _time(
                run, step, op, c, held, message, inputs
            ))  # fmt: skip
            if timing is None:
                continue
            row[f"{op}_ms"] = 1e3 * timing["seconds"]
            work = flops[op](0, start=start, length=length)
            row[f"{op}_tflops"] = work / timing["seconds"] / 1e12
        if "F_ms" in row and "B_ms" in row:
            row["B_over_F"] = row["B_ms"] / row["F_ms"]
        rows.append(row)
    totals = [row.get("F_ms", 0) + row.get("B_ms", 0) for row in rows]
    run.values["stage"] = rows
    run.values["stage_largest_over_mean_chunk"] = len(totals) * max(totals) / sum(totals)
    report.show(f"one stage, {LAYERS} layers of {run.sizes.stage[0]}, balanced chunks", rows)


def _name(op: Op, chunk: int) -> str:
    return f"stage {op}{chunk}"


def _arguments(step):
    """Parameters by shape, tokens, targets."""
    tokens, targets = cases.random_batch(step.stage, 1, sum(step.table.chunk_lengths))
    return step.abstract_params(), tokens, targets


def _inputs(step):
    """The stage's weights as its actions read them, from parameters."""
    prepare = partial(prepare_inputs, step.program(1))
    return _alone(step, lambda params, tokens, targets: prepare(params, tokens, targets, None))


def _alone(step, function):
    """On the one device of the mesh, whose shapes are those of the arrays."""
    return jax.shard_map(
        function, mesh=step.mesh, in_specs=Spec(), out_specs=Spec(), check_vma=False
    )


def _action(step, op: Op, chunk: int):
    program = step.program(1)

    def act(state, unit, message, inputs):
        return ACTIONS[op](Chunk(program, chunk, inputs), unit, state, message)

    return jax.jit(_alone(step, act), donate_argnums=0)


def _state(step):
    """Shapes of state, unit and message."""
    program = step.program(1)
    columns = [getattr(step.table.actions, name) for name in Unit._fields]  # [tick, rank, ...]
    unit = Unit(*(jax.ShapeDtypeStruct(column.shape[2:], jnp.int32) for column in columns))
    message = jax.ShapeDtypeStruct(program.message_shape, program.compute_dtype)
    return state_shapes(program), unit, message


def _time(run: Run, step, op: Op, chunk: int, held, message, inputs) -> dict[str, float]:
    actions = step.table.actions
    here = (actions.op[:, 0] == OP_CODES[op]) & (actions.chunk[:, 0] == chunk)
    tick = int(np.flatnonzero(here)[0])
    columns = [getattr(actions, name) for name in Unit._fields]
    unit = Unit(*(jnp.asarray(column[tick, 0], jnp.int32) for column in columns))
    call = run.programs.get(_name(op, chunk)).call

    def act():
        held["state"], sent = call(held["state"], unit, message, inputs)
        return sent

    return time_calls(
        act, repeats=run.sizes.repeats, case_seconds=run.sizes.case_seconds, queue=True
    )
