"""The carried state before the first tick: its shapes, and what is in it."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct as Shape
from jax import lax

from seq1f1b_jax.pipeline.executor import balance
from seq1f1b_jax.pipeline.executor.buffers import Gradients, State, Store
from seq1f1b_jax.pipeline.executor.program import Program
from seq1f1b_jax.pipeline.executor.store import to_host
from seq1f1b_jax.pipeline.params.vocabulary import table_names
from seq1f1b_jax.pipeline.stage import value_dim_of


def state_shapes(program: Program) -> State:
    """Shapes and dtypes of the carried state."""
    stage, acc, dtype = program.stage, program.accumulation_dtype, program.compute_dtype
    table, batch = program.table, program.num_sequences
    layers = program.layout.max_layers
    prefix = program.offsets[-1] if program.train else 0
    cached = (layers, batch, table.cache_tokens, stage.num_kv_heads)
    collected = (max(1, table.num_prefix_slots), layers, batch, prefix, stage.num_kv_heads)
    widths = (stage.head_dim, value_dim_of(stage))
    keys, values = (Shape((*cached, width), dtype) for width in widths)
    prefix_dk, prefix_dv = (Shape((*collected, width), acc) for width in widths)
    message = math.prod(program.message_shape) // max(program.lengths)
    grads = None
    if program.train:
        grads = gradient_shapes(program)
    return State(
        ring=program.ring_shapes(),
        deferred=program.deferred_shapes(),
        keys=keys,
        values=values,
        prefix_dk=prefix_dk,
        prefix_dv=prefix_dv,
        dy=Shape((table.loss_tokens, message), dtype),
        grads=grads,
        loss=Shape(() if program.train else program.batch_shape, acc),
        tally=balance.tally_shapes(program),
    )


def gradient_shapes(program: Program) -> Gradients:
    """Shapes of the accumulators: of the weights that train.

    A table has one if a leaf that is in it trains: embedding and head may share one.
    """
    trained, weights = program.trained, program.weight_shapes
    embedding, head = table_names(program.layout)
    tables = {name for name in program.position_tables if name in trained}
    tables |= {embedding} if "embedding" in trained else set()
    tables |= {head} if program.trains_head else set()
    of_layers = partial(trained.only, under="layers")
    layers = weights.layers
    like = Gradients(
        tuple(map(of_layers, layers)) if program.unrolled else of_layers(layers),
        trained.only(weights.first, "first"),
        trained.only(weights.last, "last"),
        {name: shape for name, shape in program.table_shapes.items() if name in tables},
    )
    dtype = program.accumulation_dtype
    return jax.tree.map(lambda leaf: Shape(leaf.shape, dtype), like)


def initial_state(program: Program) -> State:
    """Zeros where sums begin; the rest is written before it is read, and not initialised.

    On a GPU, that is: on a CPU an empty array is one of zeros.
    """
    shapes, value = state_shapes(program), program.options.fill

    def unwritten(s: Shape) -> jax.Array:
        if value is None:
            return lax.empty(s.shape, s.dtype)
        is_int = jnp.issubdtype(s.dtype, jnp.integer)  # bits that are a NaN, or no expert's number
        return jnp.full(s.shape, jnp.iinfo(s.dtype).max if is_int else value, s.dtype)

    def placed(store: Store) -> Store:
        return store._replace(host=jax.tree.map(to_host, store.host))

    def zeros(s: Shape) -> jax.Array:
        return jnp.zeros(s.shape, s.dtype)

    state = jax.tree.map(unwritten, shapes)
    return state._replace(
        ring=placed(state.ring), deferred=placed(state.deferred),
        grads=jax.tree.map(zeros, shapes.grads), loss=zeros(shapes.loss),
    )
