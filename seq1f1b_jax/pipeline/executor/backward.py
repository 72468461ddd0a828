"""B, and its halves I and W: a chunk back through a stage's layers.

`B` and `I` pull the gradient of the stage's output through the layers to its input, which the stage
before waits for. `B` adds all weight gradients on the way; `I` leaves those that are matmuls to a
later `W`, which nothing waits for.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seq1f1b_jax.ops.attention import ChunkGradients
from seq1f1b_jax.pipeline.executor import buffers
from seq1f1b_jax.pipeline.executor.buffers import State
from seq1f1b_jax.pipeline.executor.chunk import Chunk, Unit, WeightUnit
from seq1f1b_jax.pipeline.executor.control import over_layers, run_if
from seq1f1b_jax.pipeline.executor.layer import Given, Kept, LayerSplit
from seq1f1b_jax.pipeline.params import positions
from seq1f1b_jax.pipeline.params.vocabulary import add_rows, look_up
from seq1f1b_jax.pipeline.stage import Tree


def backward(
    chunk: Chunk, unit: Unit, state: State, message: Float[Array, "B Tmax d"]
) -> tuple[State, Float[Array, "B Tmax d"]]:
    """B: from the gradient of the stage's output to that of its input, and of all its weights.

    Args:
      chunk: static facts.
      unit: what to work on.
      state: buffers of this rank.
      message: gradient from the stage after; not read by the last one.

    Returns:
      The state, and the message to the stage before.
    """
    return _through_layers(chunk, unit, state, message, layer_step=_whole_layer)


def input_backward(
    chunk: Chunk, unit: Unit, state: State, message: Float[Array, "B Tmax d"]
) -> tuple[State, Float[Array, "B Tmax d"]]:
    """I: as `backward`, without the matmuls of weight gradients; stores what they need."""
    return _through_layers(chunk, unit, state, message, layer_step=_input_half_of_layer)


def weight_backward(chunk: Chunk, unit: WeightUnit, state: State) -> State:
    """W: the matmuls of weight gradients that an `I` has left."""
    split, context = chunk.program.layer_splits[chunk.index], chunk.context(unit)

    def layer_step(layer, unit: WeightUnit, value: None, state: State) -> tuple[None, State]:
        kept = _kept(chunk, unit, layer, context, state)
        where = dict(layer=layer, offset=unit.deferred_offset, tokens=chunk.length)
        deferred = {
            name: buffers.read_entry(state.deferred, entry, **where)
            for name, entry in split.entries.items()
        }
        grads = {}
        for piece in ("post", "pre"):
            halves = getattr(split, piece)
            values = [deferred[f"{piece}.{i}"] for i in range(len(halves.deferred))]
            grads = _add(grads, halves.weight_half(kept, values))
        return value, _accumulate_leaves(chunk, unit, layer, state, grads)

    return over_layers(chunk.program, unit, layer_step, None, state)[1]


def _through_layers(chunk: Chunk, unit: Unit, state: State, message, *, layer_step):
    program = chunk.program
    dy = message[:, : chunk.num_rows]
    is_last_stage = program.is_stage(-1, unit.stage)
    dy = run_if(is_last_stage, lambda _: _loss_gradient(chunk, unit, state), dy)
    context = chunk.context(unit)

    def step(layer, unit, dy, state):
        return layer_step(chunk, unit, layer, context, dy, state)

    dx, state = over_layers(program, unit, step, dy, state, reverse=True)
    is_first_stage = program.is_stage(0, unit.stage)
    state = run_if(is_first_stage, lambda s: _embed_backward(chunk, unit, s, dx), state)
    return state, chunk.message(dx)


def _loss_gradient(chunk: Chunk, unit: Unit, state: State) -> Float[Array, "B T d"]:
    shape = (chunk.length, state.dy.shape[1])
    dy = buffers.read(state.dy, shape, unit.loss_offset)
    return dy.reshape(chunk.program.num_sequences, chunk.num_rows, -1)


def _whole_layer(chunk: Chunk, unit: Unit, layer, context: Tree, dy, state: State):
    pieces = chunk.program.layer_backwards[chunk.index]
    kept = _kept(chunk, unit, layer, context, state)
    values, attention_inputs = _attention_values(chunk, unit, layer, kept, state)
    d_post, (dx_around, dout) = pieces.post(kept, Given(values, dy))
    cotangents, state = _attention(chunk, unit, layer, attention_inputs, dout, state)
    d_pre, dx = pieces.pre(kept, Given(values, cotangents))
    state = _accumulate(chunk, unit, layer, state, jax.tree.map(jnp.add, d_pre, d_post))
    return dx + dx_around, state


def _input_half_of_layer(chunk: Chunk, unit: Unit, layer, context: Tree, dy, state: State):
    split: LayerSplit = chunk.program.layer_splits[chunk.index]
    kept = _kept(chunk, unit, layer, context, state)
    values, attention_inputs = _attention_values(chunk, unit, layer, kept, state)
    half = split.post.input_half(kept, Given(values, dy))
    (dx_around, dout), post_grads, post_deferred = half
    cotangents, state = _attention(chunk, unit, layer, attention_inputs, dout, state)
    dx, pre_grads, pre_deferred = split.pre.input_half(kept, Given(values, cotangents))
    deferred = state.deferred
    where = dict(layer=layer, offset=unit.deferred_offset, tokens=chunk.length)
    for name, value in zip(split.entries, (*pre_deferred, *post_deferred), strict=True):
        deferred = buffers.write_entry(deferred, split.entries[name], value, **where)
    state = state._replace(deferred=deferred)
    state = _accumulate_leaves(chunk, unit, layer, state, _add(post_grads, pre_grads))
    return dx + dx_around, state


def _kept(chunk: Chunk, unit: Unit | WeightUnit, layer, context: Tree, state: State) -> Kept:
    stored = chunk.stored(unit.arena_offset, layer, state)
    return Kept(chunk.layer_weights(unit, layer), context, stored)


def _attention_values(chunk: Chunk, unit: Unit, layer, kept: Kept, state: State):
    """Sources of residuals beside the ring, and what attention's backward needs."""
    prefix = chunk.prefix(unit, layer, state)
    if chunk.plan.pre:
        k, v = chunk.own(unit, layer, state)
        named = {"k": k, "v": v}
        q, out, lse = (kept.stored[name] for name in ("q", "out", "lse"))
    else:  # policy `full`
        q, k, v = chunk.pre(kept.weights, kept.stored["x"], kept.context)
        out, lse = chunk.program.attention.forward(q, k, v, prefix, chunk.starts(unit))
        named = {"q": q, "k": k, "v": v, "out": out}
    return named, (q, k, v, prefix, out, lse)


def _attention(chunk: Chunk, unit: Unit, layer, inputs, dout, state: State):
    """Gradients of query, keys and values in the compute dtype; the prefix collects its share."""
    *values, out, lse = inputs
    attention, starts = chunk.program.attention, chunk.starts(unit)
    grads: ChunkGradients = attention.backward(*values, out, lse, dout, starts)
    state, dk, dv = _prefix_gradients(chunk, unit, layer, state, grads)
    return (grads.dq, dk.astype(grads.dq.dtype), dv.astype(grads.dq.dtype)), state


def _prefix_gradients(chunk: Chunk, unit: Unit, layer, state: State, grads: ChunkGradients):
    """Add a chunk's share to the prefix; return the complete gradient of its own keys/values.

    Chunks run descending, so the last one sets what the others add to; its own tokens are complete
    at once and are not in the buffer. The others write first and read then, so that no older
    version of the buffer stays alive.
    """
    places = (unit.prefix_slot, layer, 0)
    found = []
    for buffer, own, delta in zip(
        (state.prefix_dk, state.prefix_dv), (grads.dk, grads.dv), grads.prefix or (None, None),
        strict=True,
    ):
        if delta is not None:
            update = _collected(chunk, buffer, delta.astype(buffer.dtype), places)
            buffer = buffers.write(buffer, update, *places, chunk.offset - update.shape[1])
        if not chunk.is_last:
            own = own + buffers.read(buffer, own.shape, *places, chunk.offset)
        found.append((buffer, own))
    (prefix_dk, dk), (prefix_dv, dv) = found
    return state._replace(prefix_dk=prefix_dk, prefix_dv=prefix_dv), dk, dv


def _collected(chunk: Chunk, buffer: Array, delta: Array, places: tuple) -> Array:
    """A chunk's share and what later chunks have collected; it may be of the last tokens only."""
    if chunk.is_last:
        hidden = chunk.offset - delta.shape[1]
        return jnp.pad(delta, ((0, 0), (hidden, 0), (0, 0), (0, 0)))
    first = chunk.offset - delta.shape[1]
    return delta + buffers.read(buffer, delta.shape, *places, first)


def _embed_backward(chunk: Chunk, unit: Unit, state: State, dx: Float[Array, "B t d"]) -> State:
    stage, first, tensor = chunk.program.stage, chunk.inputs.weights.first, chunk.program.tensor
    tokens = chunk.tokens(unit, chunk.inputs.tokens)
    rows = look_up(chunk.inputs.tables[chunk.embedding], tokens, tensor)

    def embed(first: Tree, at_positions: dict[str, Array], rows: Array) -> Array:
        first = positions.put_in(first, at_positions)
        return stage.embed(first, rows, chunk.row_positions(unit))

    _, pull = jax.vjp(embed, first, chunk.position_rows(unit), rows)
    d_first, d_positions, d_rows = pull(dx)
    grads = state.grads
    tables = {chunk.embedding: add_rows(grads.tables[chunk.embedding], tokens, d_rows, tensor)}
    for name, gradients in d_positions.items():
        where = chunk.positions(unit)
        tables[name] = positions.add_rows(grads.tables[name], where, gradients, tensor)
    grads = grads._replace(
        first=buffers.add_tree(grads.first, d_first), tables={**grads.tables, **tables}
    )
    return state._replace(grads=grads)


def _add(total: dict[int, Array], update: dict[int, Array]) -> dict[int, Array]:
    """Sum of weight gradients by leaf; a weight may be used in both pieces of a layer."""
    return total | {i: total[i] + g if i in total else g for i, g in update.items()}


def _accumulate_leaves(
    chunk: Chunk, unit: Unit | WeightUnit, layer, state: State, grads: dict[int, Array]
) -> State:
    """Add the gradients of some leaves of a layer's weights; the other leaves are not touched."""
    treedef = jax.tree.structure(chunk.program.layer_shapes)
    leaves = [grads.get(index) for index in range(treedef.num_leaves)]
    return _accumulate(chunk, unit, layer, state, treedef.unflatten(leaves))


def _accumulate(
    chunk: Chunk, unit: Unit | WeightUnit, layer, state: State, update: Tree
) -> State:
    """Add gradients of a layer's weights; `None`: nothing for this leaf."""
    row, layers = chunk.program.layer_row(unit.stage, layer), state.grads.layers
    if chunk.program.unrolled:
        layers = (*layers[:row], buffers.add_tree(layers[row], update), *layers[row + 1 :])
    else:
        layers = buffers.accumulate(layers, update, row)
    return state._replace(grads=state.grads._replace(layers=layers))
