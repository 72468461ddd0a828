"""Bytes per device of a step, term by term, before anything is compiled.

Every buffer that the scan carries is known from the tick table and the model's shapes. Beside them one
action at a time needs scratch; the largest is the backward of one layer on the last chunk, which sees
the longest prefix.
"""

import math
from dataclasses import asdict, dataclass

import jax
import jax.numpy as jnp

from seq1f1b_jax.pipeline.program import Program
from seq1f1b_jax.pipeline.stage import Tree


@dataclass(frozen=True)
class MemoryPrediction:
    """Bytes per device. Every rank allocates what the fullest rank needs.

    Attributes:
      ring: residuals of the units in flight.
      cache: keys and values of the microbatches in flight.
      prefix_gradients: gradients of the key/value prefix, accumulation dtype.
      loss_gradients: loss gradients by the last stage's output that wait for their backward.
      accumulators: gradients of this rank's parameters, accumulation dtype.
      weights: compute copies of this rank's weights, and the vocabulary tables it gathers.
      workspace: scratch of the largest single action.
    """

    ring: int
    cache: int
    prefix_gradients: int
    loss_gradients: int
    accumulators: int
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
    return sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def predict_memory(program: Program) -> MemoryPrediction:
    """Sum up the carried state and the scratch of one step.

    Args:
      program: static facts of the step (`PipelineStep.program`).

    Example:
      >>> predict_memory(step.program(num_sequences=1)).terms()["ring"]
    """
    state = program.state_shapes()
    return MemoryPrediction(
        ring=nbytes(state.ring),
        cache=nbytes((state.keys, state.values)),
        prefix_gradients=nbytes((state.prefix_dk, state.prefix_dv)),
        loss_gradients=nbytes(state.dy),
        accumulators=nbytes(state.grads),
        weights=_weight_copies(program),
        workspace=max(_workspace(program, chunk) for chunk in range(program.num_chunks)),
    )


def _weight_copies(program: Program) -> int:
    """Copies made once per step: casts (float32 needs none) and gathered tables."""
    cast = jnp.dtype(program.compute_dtype) != jnp.float32
    gathered = program.layout.num_stages > 1 or cast
    weights = nbytes(program.weight_shapes) if cast else 0
    return weights + (nbytes(program.table_shapes) if gathered else 0)


def _workspace(program: Program, chunk: int) -> int:
    """Scratch of one layer's backward, counted in the values that are alive together.

    - the widest residual of a layer and its gradient;
    - five values of the message's size: message in, message out, what idle ranks send, and the
      layer's input and output gradients;
    - attention: q, out and their gradients for the chunk, k, v, dk, dv for the whole prefix.
    """
    stage, length = program.stage, program.lengths[chunk]
    item = jnp.dtype(program.compute_dtype).itemsize
    wide = jnp.dtype(program.accumulation_dtype).itemsize
    plan = program.residual_plans[chunk]
    widest = max((entry.size * entry.dtype.itemsize for entry in plan.entries), default=0)
    messages = 5 * math.prod(program.message_shape) * item
    queries = program.batch * length * stage.num_heads * stage.head_dim
    prefix = program.batch * (program.offsets[chunk] + length)
    pairs = prefix * stage.num_kv_heads * stage.head_dim
    attention = 2 * queries * (item + wide) + 2 * pairs * (item + wide)
    return 2 * widest + messages + attention
