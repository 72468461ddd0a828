"""Bytes per device of a step, before anything is compiled: `schedule.memory` of a `Program`."""

import math
from collections.abc import Iterable
from dataclasses import replace

import jax
import jax.numpy as jnp
from jax.tree import leaves_with_path

from seq1f1b_jax.ops.pairs import block_scores
from seq1f1b_jax.pipeline.executor.initial import gradient_shapes
from seq1f1b_jax.pipeline.executor.layers.residuals import ArenaEntry, plan_residuals
from seq1f1b_jax.pipeline.executor.program import Program
from seq1f1b_jax.pipeline.stage import Tree, is_of_experts
from seq1f1b_jax.schedule import Op
from seq1f1b_jax.schedule.memory.sizes import Scores, StepSizes, Value
from seq1f1b_jax.schedule.memory.terms import MemoryPrediction, room_of, step_bytes
from seq1f1b_jax.schedule.memory.workspace import loss_block


def nbytes(tree: Tree) -> int:
    """Bytes of all leaves of a tree of arrays or shapes."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in leaves)


def predict_memory(program: Program) -> MemoryPrediction:
    """Sum up the carried state and the scratch of one step.

    Args:
      program: static facts of the step (`PipelineStep.program`).

    Example:
      >>> from seq1f1b_jax.models import build_stage
      >>> from seq1f1b_jax.pipeline import build_step, make_mesh
      >>> from seq1f1b_jax.schedule import make_plan
      >>> plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=4, num_chunks=2)
      >>> step = build_step(
      ...     build_stage("gpt", preset="tiny"), plan, make_mesh(2), chunk_lengths=(16, 16)
      ... )
      >>> predict_memory(step.program(num_sequences=1)).terms()["ring"]
      49920
    """
    room = room_of(program.table, program.layout.layers_per_stage)
    return step_bytes(sizes_of(program), room)


def copied_bytes(program: Program) -> tuple[int, int]:
    """See `StepSizes.copied`."""
    return sizes_of(program).copied()


def with_loss_block(program: Program) -> Program:
    """The program with its loss block chosen by bytes, where the options leave it open.

    Args:
      program: static facts of the step.

    Example:
      >>> from seq1f1b_jax.models import build_stage
      >>> from seq1f1b_jax.pipeline import build_step, make_mesh
      >>> from seq1f1b_jax.schedule import make_plan
      >>> plan = make_plan("seq1f1b", num_ranks=1, num_microbatches=2, num_chunks=2)
      >>> stage = build_stage("llama", preset="tiny", vocab_size=4096, max_positions=8192)
      >>> step = build_step(stage, plan, make_mesh(1), chunk_lengths=(4096, 4096))
      >>> step.options.loss_block, step.program(num_sequences=1).options.loss_block
      (None, 1024)
    """
    if program.options.loss_block is not None:
        return program
    block = loss_block(sizes_of(program))
    return replace(program, options=replace(program.options, loss_block=block))


def sizes_of(program: Program) -> StepSizes:
    """The sizes that a program's bytes follow from, found by tracing one layer."""
    stage, weights = program.stage, program.weight_shapes
    x = program.layer_input(program.lengths[0])
    kinds = [
        plan_residuals(
            kind.stage, program.layer_shapes, x, policy="none", trained=program.trained
        )
        for kind in program.kinds
    ]
    layer_values = max((_values(plan.entries) for plan in kinds), key=_total)
    splits = Op.W in program.table.ops
    return StepSizes(
        platform=program.platform,
        lengths=program.lengths,
        num_ranks=program.table.num_ranks,
        stages_per_rank=program.table.stages_per_rank,
        splits=splits,
        late=program.table.exchange.late,
        layers_per_stage=program.layout.layers_per_stage,
        num_host_layers=program.num_host_layers,
        num_sequences=program.num_sequences,
        token_parts=program.tensor.token_parts,
        model_dim=stage.model_dim,
        num_heads=stage.num_heads,
        num_kv_heads=stage.num_kv_heads,
        head_dim=stage.head_dim,
        vocab_part=program.layout.vocab_part,
        itemsize=program.compute_dtype.itemsize,
        wide=program.accumulation_dtype.itemsize,
        value_dim=getattr(stage, "value_dim", None),
        residuals=_values(program.entries(0).values()),
        deferred=_values(program.deferred_entries(0).values()) if splits else (),
        layer_values=layer_values,
        scores=tuple(
            Scores(*block_scores(length, offset, block=program.attention.block))
            for length, offset in zip(program.lengths, program.offsets, strict=True)
        ),
        layer_weights=_count(program.layer_shapes),
        expert_weights=_experts(program.layer_shapes),
        small_weights=_count((weights.first, weights.last)),
        table_values=_count(program.table_shapes),
        gradients=_count(gradient_shapes(program)),
        trains_head=program.trains_head,
        unrolled=program.unrolled,
        cast=program.compute_dtype != jnp.float32,
        train=program.train,
        loss_block=program.options.loss_block,
    )


def _values(entries: Iterable[ArenaEntry]) -> tuple[Value, ...]:
    return tuple(Value(entry.size, entry.dtype.itemsize) for entry in entries)


def _total(values: Iterable[Value]) -> int:
    return sum(value.nbytes for value in values)


def _experts(layer: Tree) -> int:
    found = leaves_with_path(layer)
    return sum(math.prod(leaf.shape) for path, leaf in found if is_of_experts(path))


def _count(tree: Tree) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
