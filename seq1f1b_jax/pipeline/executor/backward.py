"""B, and its halves I and W: a chunk back through a stage's layers.

`B` and `I` pull the gradient of the stage's output through the layers to its input, which the stage
before waits for. `B` adds all weight gradients on the way; `I` leaves those that are matmuls to a
later `W`, which nothing waits for.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.tree import leaves_with_path
from jaxtyping import Array, Float

from seq1f1b_jax.ops.attention import ChunkGradients
from seq1f1b_jax.ops.attention.sinks import sink_gradients, with_sinks
from seq1f1b_jax.pipeline.executor import balance, buffers
from seq1f1b_jax.pipeline.executor.buffers import State
from seq1f1b_jax.pipeline.executor.chunk import Chunk, LayerChunk, Unit, WeightUnit
from seq1f1b_jax.pipeline.executor.control import LayerWork, over_layers, run_if
from seq1f1b_jax.pipeline.executor.layers.backward import Given, Kept, LayerSplit
from seq1f1b_jax.pipeline.executor.store import fetch_values, open_values, write_values
from seq1f1b_jax.pipeline.params import positions
from seq1f1b_jax.pipeline.params.vocabulary import add_rows, look_up
from seq1f1b_jax.pipeline.stage import Tree, leaf_name, sinks_of


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
    runs = [_each_layer(kind, unit, _whole_layer) for kind in chunk.kinds]
    return _through_layers(chunk, unit, state, message, LayerWork(runs, partial(_stored, chunk)))


def input_backward(
    chunk: Chunk, unit: Unit, state: State, message: Float[Array, "B Tmax d"]
) -> tuple[State, Float[Array, "B Tmax d"]]:
    """I: as `backward`, without the matmuls of weight gradients; stores what they need."""
    entries = chunk.program.deferred_entries(chunk.index)

    def store(layer, unit: Unit, deferred, state: State, *, on_host: bool) -> State:
        place = chunk.place(unit.deferred_offset, layer, on_host=on_host)
        return state._replace(
            deferred=write_values(state.deferred, entries, deferred, place)
        )

    runs = [_each_layer(kind, unit, _input_half_of_layer) for kind in chunk.kinds]
    work = LayerWork(runs, partial(_stored, chunk), store, entries)
    return _through_layers(chunk, unit, state, message, work)


def weight_backward(chunk: Chunk, unit: WeightUnit, state: State) -> State:
    """W: the matmuls of weight gradients that an `I` has left."""
    entries = chunk.program.deferred_entries(chunk.index)

    def fetch(layer, unit: WeightUnit, state: State, *, on_host: bool):
        place = chunk.place(unit.deferred_offset, layer, on_host=on_host)
        stored = _stored(chunk, layer, unit, state, on_host=on_host)
        return stored, fetch_values(state.deferred, entries, place)

    runs = [_weight_half_of_layer(kind, unit) for kind in chunk.kinds]
    return over_layers(chunk.program, unit, LayerWork(runs, fetch), None, state, reverse=True)[1]


def _weight_half_of_layer(chunk: LayerChunk, unit: WeightUnit) -> Callable:
    """One of `LayerWork.runs`."""
    split, context = chunk.program.layer_splits[chunk.index], chunk.context(unit)
    entries = chunk.program.deferred_entries(chunk.index)

    def run(layer, unit: WeightUnit, value: None, fetched, state: State):
        stored = chunk.own_entries(open_values(chunk.entries, fetched[0]))
        deferred = open_values(entries, fetched[1])
        kept = Kept(chunk.layer_weights(unit, layer), context, stored)
        grads = {}
        for piece in ("post", "pre"):
            halves = getattr(split, piece)
            values = [deferred[f"{piece}.{i}"] for i in range(len(halves.deferred))]
            grads = _add(grads, halves.weight_half(kept, values))
        return value, {}, _accumulate_leaves(chunk, unit, layer, state, grads)

    return run


def _each_layer(chunk: LayerChunk, unit: Unit, layer_step: Callable) -> Callable:
    """`layer_step(chunk, unit, layer, kept, dy, state)` as one of `LayerWork.runs`."""
    context = chunk.context(unit)

    def run(layer, unit: Unit, dy: Array, fetched: dict[str, Array] | Array, state: State):
        stored = chunk.own_entries(open_values(chunk.entries, fetched))
        kept = Kept(chunk.layer_weights(unit, layer), context, stored)
        return layer_step(chunk, unit, layer, kept, dy, state)

    return run


def _stored(chunk: Chunk, layer, unit: Unit | WeightUnit, state: State, *, on_host: bool):
    """The unit's entries of the residual ring."""
    place = chunk.place(unit.arena_offset, layer, on_host=on_host)
    return fetch_values(state.ring, chunk.entries, place)


def _through_layers(chunk: Chunk, unit: Unit, state: State, message: Array, work: LayerWork):
    program = chunk.program
    dy = message[:, : chunk.num_rows]
    is_last_stage = program.is_stage(-1, unit.stage)
    dy = run_if(is_last_stage, lambda _: _loss_gradient(chunk, unit, state), dy)
    dx, state = over_layers(program, unit, work, dy, state, reverse=True)
    is_first_stage = program.is_stage(0, unit.stage)
    state = run_if(is_first_stage, lambda s: _embed_backward(chunk, unit, s, dx), state)
    return state, chunk.message(dx)


def _loss_gradient(chunk: Chunk, unit: Unit, state: State) -> Float[Array, "B T d"]:
    shape = (chunk.length, state.dy.shape[1])
    dy = buffers.read(state.dy, shape, unit.loss_offset)
    return dy.reshape(chunk.program.num_sequences, chunk.num_rows, -1)


def _whole_layer(chunk: LayerChunk, unit: Unit, layer, kept: Kept, dy: Array, state: State):
    pieces = chunk.program.layer_backwards[chunk.index]
    values, attention_inputs = _attention_values(chunk, unit, layer, kept, state)
    cotangent = balance.with_gradients(chunk, unit, layer, state, dy)
    d_post, (dx_around, dout) = pieces.post(kept, Given(values, cotangent))
    state = _add_to_sinks(chunk, unit, layer, kept, attention_inputs, dout, state)
    cotangents, state = _attention(chunk, unit, layer, attention_inputs, dout, state)
    d_pre, dx = pieces.pre(kept, Given(values, cotangents))
    state = _accumulate(chunk, unit, layer, state, jax.tree.map(jnp.add, d_pre, d_post))
    return dx + dx_around, {}, state


def _input_half_of_layer(chunk: LayerChunk, unit: Unit, layer, kept: Kept, dy: Array, state: State):
    split: LayerSplit = chunk.program.layer_splits[chunk.index]
    values, attention_inputs = _attention_values(chunk, unit, layer, kept, state)
    cotangent = balance.with_gradients(chunk, unit, layer, state, dy)
    half = split.post.input_half(kept, Given(values, cotangent))
    (dx_around, dout), post_grads, post_deferred = half
    state = _add_to_sinks(chunk, unit, layer, kept, attention_inputs, dout, state)
    cotangents, state = _attention(chunk, unit, layer, attention_inputs, dout, state)
    dx, pre_grads, pre_deferred = split.pre.input_half(kept, Given(values, cotangents))
    found = dict(zip(split.entries, (*pre_deferred, *post_deferred), strict=True))
    others = chunk.program.deferred_entries(chunk.index).items() - split.entries.items()
    deferred = found | {name: jnp.zeros(e.shape, e.dtype) for name, e in others}
    state = _accumulate_leaves(chunk, unit, layer, state, _add(post_grads, pre_grads))
    return dx + dx_around, deferred, state


def _attention_values(chunk: LayerChunk, unit: Unit, layer, kept: Kept, state: State):
    """Sources of residuals beside the ring, and what attention's backward needs."""
    prefix = chunk.prefix(unit, layer, state)
    if chunk.plan.pre:
        k, v = chunk.own(unit, layer, state)
        named = {"k": k, "v": v}
        q, out, lse = (kept.stored[name] for name in ("q", "out", "lse"))
    else:  # the layer runs again
        q, k, v = chunk.pre(kept.weights, kept.stored["x"], kept.context)
        named = {"q": q, "k": k, "v": v}
        if "out" in kept.stored:
            out, lse = kept.stored["out"], kept.stored["lse"]
        else:
            out, lse = chunk.attention.forward(q, k, v, prefix, chunk.starts(unit))
            out, lse = with_sinks(out, lse, chunk.sinks(kept.weights))
            named["out"] = out
    return named, (q, k, v, prefix, out, lse)


def _attention(chunk: LayerChunk, unit: Unit, layer, inputs, dout, state: State):
    """Gradients of query, keys and values in the compute dtype; the prefix collects its share."""
    *values, out, lse = inputs
    starts = chunk.starts(unit)
    grads: ChunkGradients = chunk.attention.backward(*values, out, lse, dout, starts)
    state, dk, dv = _prefix_gradients(chunk, unit, layer, state, grads)
    return (grads.dq, dk.astype(grads.dq.dtype), dv.astype(grads.dq.dtype)), state


def _add_to_sinks(
    chunk: LayerChunk, unit: Unit, layer, kept: Kept, inputs, dout: Array, state: State
) -> State:
    """Add the gradient of the layer's attention sinks, where it has some."""
    sinks, name = chunk.sinks(kept.weights), sinks_of(chunk.program.stage)
    if sinks is None or f"layers.{name}" not in chunk.program.trained:
        return state
    *_, out, lse = inputs
    own = chunk.program.trained.only(kept.weights, "layers")
    names = [leaf_name(path) for path, _ in leaves_with_path(own)]
    grads = {names.index(name): sink_gradients(out, lse, dout, sinks)}
    return _accumulate_leaves(chunk, unit, layer, state, grads)


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
    trained, grads = chunk.program.trained, state.grads
    tokens = chunk.tokens(unit, chunk.inputs.tokens)
    rows = look_up(chunk.inputs.tables[chunk.embedding], tokens, tensor)

    def embed(first: Tree, at_positions: dict[str, Array], rows: Array) -> Array:
        first = positions.put_in(first, at_positions)
        return stage.embed(first, rows, chunk.row_positions(unit))

    _, pull = jax.vjp(embed, first, chunk.position_rows(unit), rows)
    d_first, d_positions, d_rows = pull(dx)
    tables, where = dict(grads.tables), chunk.positions(unit)
    if "embedding" in trained:
        tables[chunk.embedding] = add_rows(tables[chunk.embedding], tokens, d_rows, tensor)
    for name, gradients in d_positions.items():
        if name in trained:
            tables[name] = positions.add_rows(tables[name], where, gradients, tensor)
    d_first = trained.only(d_first, "first")
    grads = grads._replace(first=buffers.add_tree(grads.first, d_first), tables=tables)
    return state._replace(grads=grads)


def _add(total: dict[int, Array], update: dict[int, Array]) -> dict[int, Array]:
    """Sum of weight gradients by leaf; a weight may be used in both pieces of a layer."""
    return total | {i: total[i] + g if i in total else g for i, g in update.items()}


def _accumulate_leaves(
    chunk: Chunk, unit: Unit | WeightUnit, layer, state: State, grads: dict[int, Array]
) -> State:
    """Add the gradients of some leaves of a layer's weights; the other leaves are not touched."""
    own = chunk.program.trained.only(chunk.program.layer_shapes, "layers")
    treedef = jax.tree.structure(own)
    leaves = [grads.get(index) for index in range(treedef.num_leaves)]
    return _accumulate(chunk, unit, layer, state, treedef.unflatten(leaves))


def _accumulate(
    chunk: Chunk, unit: Unit | WeightUnit, layer, state: State, update: Tree
) -> State:
    """Add gradients of a layer's weights that train; `None`: nothing for this leaf."""
    row, layers = chunk.program.layer_row(unit.stage, layer), state.grads.layers
    if chunk.program.unrolled:
        layers = (*layers[:row], buffers.add_tree(layers[row], update), *layers[row + 1 :])
    else:
        layers = buffers.accumulate(layers, update, row)
    return state._replace(grads=state.grads._replace(layers=layers))
