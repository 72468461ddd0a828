"""Once per step, around the scan: weights as actions read them, gradients in their layout."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.axes import PIPE, TENSOR
from seq1f1b_jax.pipeline.executor.buffers import Gradients
from seq1f1b_jax.pipeline.executor.chunk import Inputs
from seq1f1b_jax.pipeline.executor.program import Program
from seq1f1b_jax.pipeline.params.positions import gather, put_in, scatter_gradient, take_out
from seq1f1b_jax.pipeline.params.sharding import sum_parts
from seq1f1b_jax.pipeline.params.vocabulary import gather_tables, scatter_gradients
from seq1f1b_jax.pipeline.stage import Params


def prepare_inputs(
    program: Program,
    params: Params,
    tokens: Int[Array, "M B T"],
    targets: Int[Array, "M B T"],
    starts: Int[Array, "M B T"] | None,
    sequence_targets: Float[Array, ""] | float = 0.0,
) -> Inputs:
    """Compute copies of this rank's weights, cast once per step and outside every vjp."""
    cast = jax.tree.map(lambda leaf: leaf.astype(program.compute_dtype), params)
    tables = gather_tables(cast.embedding, cast.head, program.layout)
    layers = jax.tree.map(lambda leaf: leaf[0], cast.layers)
    if program.unrolled:
        rows = range(program.layout.rank_layers)
        layers = tuple(jax.tree.map(lambda leaf, row=row: leaf[row], layers) for row in rows)
    first, shards = take_out(cast.first, program.position_tables)
    for name, num_rows in program.position_tables.items():
        tables[name] = gather(shards[name], program.layout, num_rows)
    weights = cast._replace(layers=layers, first=first, embedding=None, head=None)
    return Inputs(weights, tables, tokens, targets, starts, sequence_targets)


def collect_gradients(program: Program, grads: Gradients) -> Params:
    """Gradients in the layout of the parameters; small trees are summed over stages.

    Those of frozen leaves are `None`.
    Over `tensor` each device has its part of the gradients of replicated weights, and of what is
    added to its tokens of the residual stream.
    """
    embedding, head = scatter_gradients(grads.tables, program.layout)
    layers = grads.layers
    if program.unrolled:
        layers = jax.tree.map(lambda *rows: jnp.stack(rows), *layers)
    first = lax.psum(grads.first, (PIPE, TENSOR) if program.tensor.sequence else PIPE)
    positions = {
        name: scatter_gradient(grads.tables[name], program.layout, num_rows)
        for name, num_rows in program.position_tables.items()
        if name in grads.tables
    }
    params = Params(
        layers=jax.tree.map(lambda leaf: leaf[None], layers),
        first=put_in(first, positions),
        last=lax.psum(grads.last, PIPE),
        embedding=embedding,
        head=head,
    )
    return sum_parts(program.trained.only(params), program.layout)
