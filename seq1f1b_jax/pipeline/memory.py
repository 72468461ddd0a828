"""Bytes per device of a step, term by term, before anything is compiled.

Every buffer that the scan carries is known from the tick table and the model's shapes. Beside them
one action at a time needs scratch. Parameters and batch are left out: they are arguments of the
compiled program. The accumulators leave it as its outputs. So the sum is compared with
`temp_size_in_bytes + output_size_in_bytes` of `compiled.memory_analysis()`, in
`docs/design/memory.md`.
"""

import math
from dataclasses import asdict, dataclass

import jax
import jax.numpy as jnp

from seq1f1b_jax.ops.attention.pairs import causal_pairs
from seq1f1b_jax.pipeline.executor.program import Program
from seq1f1b_jax.pipeline.executor.residuals import plan_residuals
from seq1f1b_jax.pipeline.stage import Tree


@dataclass(frozen=True)
class MemoryPrediction:
    """Bytes per device. Every rank allocates what the fullest rank needs.

    Attributes:
      ring: residuals of the units in flight.
      deferred: what `I` has left to `W`, of the units whose backward is half done.
      cache: keys and values of the microbatches in flight.
      prefix_gradients: gradients of the key/value prefix, accumulation dtype.
      loss_gradients: loss gradients by the last stage's output that wait for their backward.
      accumulators: gradients of this rank's parameters, accumulation dtype.
      inbox: messages that arrived before they are used, where there is more than one.
      weights: compute copies of this rank's weights, and the vocabulary tables it gathers.
      workspace: scratch of the largest single action.
    """

    ring: int
    deferred: int
    cache: int
    prefix_gradients: int
    loss_gradients: int
    accumulators: int
    inbox: int
    weights: int
    workspace: int

    @property
    def total(self) -> int:
        return sum(self.terms().values())

    def terms(self) -> dict[str, int]:
        """Bytes by name of the term."""
        return asdict(self)


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
    state = program.state_shapes()
    return MemoryPrediction(
        ring=nbytes(state.ring),
        deferred=nbytes(state.deferred),
        cache=nbytes((state.keys, state.values)),
        prefix_gradients=nbytes((state.prefix_dk, state.prefix_dv)),
        loss_gradients=nbytes(state.dy),
        accumulators=nbytes(state.grads),
        inbox=(program.table.num_inbox_slots - 1) * _message(program),
        weights=_weight_copies(program),
        workspace=max(_workspace(program, chunk) for chunk in range(program.num_chunks)),
    )


def _weight_copies(program: Program) -> int:
    """Copies made once per step: casts, gathered tables, and layers taken out of their stack.

    In float32 nothing is cast, and a loop reads the layers where they are.
    """
    cast = program.compute_dtype != jnp.float32
    gathered = program.layout.num_ranks > 1 or cast
    weights = nbytes(program.weight_shapes) if cast else 0
    if program.unrolled and program.layout.rank_layers > 1 and not cast:
        weights = nbytes(program.weight_shapes.layers)
    return weights + (nbytes(program.table_shapes) if gathered else 0)


def _workspace(program: Program, chunk: int) -> int:
    """Scratch of the largest single action: a layer's backward, or the head on the last stage.

    While a layer runs backward there are, beside the carried state,

    - its narrow values and their gradients: residuals no wider than a message, read or recomputed,
      and queries, keys and values of the whole prefix (gradients of the latter in the accumulation
      dtype);
    - three messages: received, leaving, and the blank one;
    - where devices of `tensor` share tokens, all those that the matmuls of a sublayer see, and
      the gradients by them;
    - one layer's weights, sliced out of the stack or transposed;
    - one after the other the MLP's wide values with their gradients, and attention's scores and
      their gradients, in the accumulation dtype and once more in the compute dtype.

    This holds for every `recompute`: what `selective` and `full` do not store is recomputed.
    """
    item = program.compute_dtype.itemsize
    message = _message(program)
    entries = _layer_values(program, program.lengths[chunk])
    narrow = sum(size for size in entries if size <= message)
    wide = sum(size for size in entries if size > message)
    pairs = _prefix_pairs(program, chunk)
    accumulated = program.accumulation_dtype.itemsize
    scores = _score_values(program, chunk) * (item + accumulated)
    gathered = _gathered(program, program.lengths[chunk])
    if program.train:
        layer = 2 * (narrow + gathered) + pairs * (item + accumulated) + max(2 * wide, 2 * scores)
    else:
        layer = narrow + gathered + pairs * item + max(wide, scores)
    return 3 * message + max(layer + nbytes(program.layer_shapes), _head(program, chunk))


def _message(program: Program) -> int:
    return math.prod(program.message_shape) * program.compute_dtype.itemsize


def _gathered(program: Program, length: int) -> int:
    """Bytes of a chunk's tokens on every device, where each has its part of them; else none."""
    parts = program.tensor.token_parts
    return nbytes(program.layer_input(length)) * parts if parts > 1 else 0


def _layer_values(program: Program, length: int) -> list[int]:
    """Bytes of what a vjp of one layer wants for a chunk: the ring's entries under `none`."""
    x = program.layer_input(length)
    plan = plan_residuals(program.stage, program.layer_shapes, x, policy="none")
    return [entry.size * entry.dtype.itemsize for entry in plan.entries]


def _prefix_pairs(program: Program, chunk: int) -> int:
    """Numbers in the keys and values of everything up to and with this chunk."""
    stage = program.stage
    tokens = program.offsets[chunk] + program.lengths[chunk]
    return 2 * program.num_sequences * tokens * stage.num_kv_heads * stage.head_dim


def _score_values(program: Program, chunk: int) -> int:
    """Scores of all heads that attention holds at one time.

    A loop over blocks holds one block. A block on its own is no loop, and XLA:GPU merges matmuls
    of two such blocks (a chunk with one block of its own and one of prefix): their sizes add up.
    """
    length, offset = program.lengths[chunk], program.offsets[chunk]
    if program.attention.block is None:
        area = length * (offset + length)
    else:
        kinds = causal_pairs(length, offset, block=program.attention.block)
        alone = sum(kind.rows * kind.cols for kind in kinds if len(kind.starts) == 1)
        area = max(alone, *(kind.rows * kind.cols for kind in kinds))
    return program.num_sequences * program.stage.num_heads * area


def _head(program: Program, chunk: int) -> int:
    """Logits of a block, their softmax and gradient; the gradients of the table and of y."""
    stage, tokens = program.stage, program.num_sequences * program.lengths[chunk]
    wide = program.accumulation_dtype.itemsize
    vocab = program.layout.vocab_part
    logits = min(tokens, program.options.loss_block) * vocab * wide
    if not program.train:
        return 2 * logits
    return 3 * logits + (vocab + 2 * tokens) * stage.model_dim * wide
