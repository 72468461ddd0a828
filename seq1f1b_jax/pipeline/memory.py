"""Bytes per device of a step, term by term, before anything is compiled.

Every buffer that the scan carries is known from the tick table and the model's shapes. Beside them
one action at a time needs scratch. Parameters and batch are left out: they are arguments of the
compiled program. The accumulators leave it as its outputs. So the sum is compared with
`temp_size_in_bytes + output_size_in_bytes` of `compiled.memory_analysis()`, in
`docs/design/memory.md`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import jax
import jax.numpy as jnp

from seq1f1b_jax.ops.attention.pairs import causal_pairs
from seq1f1b_jax.pipeline.executor.program import Program
from seq1f1b_jax.pipeline.executor.residuals import ArenaEntry, plan_residuals
from seq1f1b_jax.pipeline.stage import Tree
from seq1f1b_jax.schedule import Op


@dataclass(frozen=True)
class MemoryPrediction:
    """Bytes per device. Every rank allocates what the fullest rank needs.

    Attributes:
      ring: residuals of the units in flight.
      deferred: what `I` has left to `W`, of the units whose backward is half done.
      cache: keys and values of the units in flight.
      prefix_gradients: gradients of the key/value prefix, accumulation dtype.
      loss_gradients: loss gradients by the last stage's output that wait for their backward.
      accumulators: gradients of this rank's parameters, accumulation dtype.
      inbox: messages that arrived before they are used, where there is more than one, and the one
        that waits to be sent, where messages travel late.
      weights: compute copies of this rank's weights, and the tables it gathers, of the vocabulary
        and of learned positions.
      workspace: scratch of the largest single action.
      staging: values on their way from or to host memory.
      host: bytes of host memory; not in the total.
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
    staging: int
    host: int

    @property
    def total(self) -> int:
        """Bytes of the device."""
        return sum(self.terms().values())

    def terms(self) -> dict[str, int]:
        """Bytes of the device by name of the term."""
        return {name: size for name, size in asdict(self).items() if name != "host"}


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
        ring=nbytes(state.ring.device),
        deferred=nbytes(state.deferred.device),
        cache=nbytes((state.keys, state.values)),
        prefix_gradients=nbytes((state.prefix_dk, state.prefix_dv)),
        loss_gradients=nbytes(state.dy),
        accumulators=nbytes(state.grads),
        inbox=(program.table.num_inbox_slots - 1 + program.table.exchange.late) * _message(program),
        weights=_weight_copies(program),
        workspace=_workspace(program),
        staging=2 * copied_bytes(program)[0] if program.num_host_layers else 0,
        host=nbytes((state.ring.host, state.deferred.host)),
    )


def copied_bytes(program: Program) -> tuple[int, int]:
    """Bytes of one layer of the longest chunk that go to the host, and that come back.

    Residuals come back once for a `B`, and for an `I` and its `W` each.
    """
    chunk = program.lengths.index(max(program.lengths))
    ring = _entry_bytes(program.residual_plans[chunk].entries)
    if Op.W not in program.table.ops:
        return ring, ring
    deferred = _entry_bytes(program.layer_splits[chunk].entries.values())
    return ring + deferred, 2 * ring + deferred


def _entry_bytes(entries: Iterable[ArenaEntry]) -> int:
    return sum(entry.size * entry.dtype.itemsize for entry in entries)


LEAST_LOSS_BLOCK = 1024
"""Tokens, whatever their logits take. With n tokens a block reads and writes the head's gradient,
8 V d bytes, for 6 n V d operations: at 600 TFLOP/s and 2.7 TB/s that takes 296/n of the time of its
matmuls, 29 % of it at 1024."""


def with_loss_block(program: Program) -> Program:
    """The program with its loss block chosen by bytes, where the options leave it open.

    A layer's backward and the head take turns in the same scratch. So the block is as many tokens
    as fit into what the layer takes anyway, a multiple of 128, at least `LEAST_LOSS_BLOCK`: the
    head's gradient is read and written as few times as no memory of its own allows.

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
    room = _layer(program) - _head(program, block=0)
    block = room // _logits(program, num_tokens=1)
    block = max(LEAST_LOSS_BLOCK, block // 128 * 128)
    return replace(program, options=replace(program.options, loss_block=block))


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


def _workspace(program: Program) -> int:
    """Scratch of the largest single action: a layer's backward, or the head on the last stage.

    Beside it there are three messages: received, leaving, and the blank one.
    """
    block = program.options.loss_block
    assert block is not None  # `with_loss_block` has chosen it
    return 3 * _message(program) + max(_layer(program), _head(program, block=block))


def _layer(program: Program) -> int:
    """Scratch of a layer's backward, or of its forward in an evaluation, for the largest chunk.

    While a layer runs backward there are, beside the carried state and the messages,

    - its narrow values and their gradients: residuals no wider than a message, read or recomputed,
      and queries, keys and values of the whole prefix (gradients of the latter in the accumulation
      dtype);
    - where devices of `tensor` share tokens, all those that the matmuls of a sublayer see, and
      the gradients by them;
    - one layer's weights, sliced out of the stack or transposed;
    - one after the other the MLP's wide values with their gradients, and attention's scores and
      their gradients, in the accumulation dtype and once more in the compute dtype.

    This holds for every `recompute`: what `selective` and `full` do not store is recomputed.
    """
    values = _layer_values(program)
    scratch = max(_layer_of(program, chunk, values) for chunk in range(program.num_chunks))
    return scratch + nbytes(program.layer_shapes)


def _layer_of(program: Program, chunk: int, values: Sequence[int]) -> int:
    """The same for one chunk, without the weights."""
    item, length = program.compute_dtype.itemsize, program.lengths[chunk]
    values = [value * length // program.lengths[0] for value in values]
    message = _message(program)
    narrow = sum(size for size in values if size <= message)
    wide = sum(size for size in values if size > message)
    pairs = _prefix_pairs(program, chunk)
    accumulated = program.accumulation_dtype.itemsize
    scores = _score_values(program, chunk) * (item + accumulated)
    gathered = _gathered(program, length)
    if program.train:
        return 2 * (narrow + gathered) + pairs * (item + accumulated) + max(2 * wide, 2 * scores)
    return narrow + gathered + pairs * item + max(wide, scores)


def _message(program: Program) -> int:
    return math.prod(program.message_shape) * program.compute_dtype.itemsize


def _gathered(program: Program, length: int) -> int:
    """Bytes of a chunk's tokens on every device, where each has its part of them; else none.

    Where layers are unrolled, tokens for the next matmuls are gathered while those of the last ones
    are still there.
    """
    parts = program.tensor.token_parts
    return nbytes(program.layer_input(length)) * parts * (1 + program.unrolled) if parts > 1 else 0


def _layer_values(program: Program) -> list[int]:
    """Bytes of what a vjp of one layer wants for the first chunk: the ring's entries under `none`.

    They are in proportion to the tokens (`plan_residuals`).
    """
    x = program.layer_input(program.lengths[0])
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
    if program.attention.block == 0:
        return 0
    if program.attention.block is None:
        area = length * (offset + length)
    else:
        kinds = causal_pairs(length, offset, block=program.attention.block)
        alone = sum(kind.rows * kind.cols for kind in kinds if len(kind.starts) == 1)
        area = max(alone, *(kind.rows * kind.cols for kind in kinds))
    return program.num_sequences * program.stage.num_heads * area


def _head(program: Program, *, block: int) -> int:
    """Logits of a block, their softmax and gradient; the gradients of the table and of y."""
    tokens = program.num_sequences * max(program.lengths)
    logits = _logits(program, num_tokens=min(tokens, block))
    if not program.train:
        return logits
    vocab, wide = program.layout.vocab_part, program.accumulation_dtype.itemsize
    return logits + (vocab + 2 * tokens) * program.stage.model_dim * wide


def _logits(program: Program, *, num_tokens: int) -> int:
    """Logits of some tokens, their softmax and, in training, its gradient."""
    wide = program.accumulation_dtype.itemsize
    return (3 if program.train else 2) * num_tokens * program.layout.vocab_part * wide
