"""F: a chunk through a stage's layers; the last stage adds the loss and its gradient."""

from collections.abc import Callable

from jaxtyping import Array, Float

from seq1f1b_jax.ops.attention.sinks import with_sinks
from seq1f1b_jax.ops.loss import cross_entropy_and_grads, token_losses
from seq1f1b_jax.pipeline.executor import balance, buffers
from seq1f1b_jax.pipeline.executor.buffers import State
from seq1f1b_jax.pipeline.executor.chunk import Chunk, LayerChunk, Unit
from seq1f1b_jax.pipeline.executor.control import LayerWork, over_layers, run_if
from seq1f1b_jax.pipeline.executor.layers import residuals
from seq1f1b_jax.pipeline.executor.store import write_values
from seq1f1b_jax.pipeline.params.positions import put_in
from seq1f1b_jax.pipeline.params.vocabulary import look_up
from seq1f1b_jax.pipeline.stage import Tree


def forward(
    chunk: Chunk, unit: Unit, state: State, message: Float[Array, "B Tmax d"]
) -> tuple[State, Float[Array, "B Tmax d"]]:
    """Run the layers of the unit's stage; fill cache and ring.

    Args:
      chunk: static facts.
      unit: what to work on.
      state: buffers of this rank.
      message: output of the stage before; not read by the first one.

    Returns:
      The state, and the message to the stage after.
    """
    program = chunk.program
    x = message[:, : chunk.num_rows]
    x = run_if(program.is_stage(0, unit.stage), lambda _: _embed(chunk, unit), x)

    def keep(layer, unit, kept, state, *, on_host):
        place = chunk.place(unit.arena_offset, layer, on_host=on_host)
        return state._replace(ring=write_values(state.ring, chunk.entries, kept, place))

    runs = [_each_layer(kind, unit) for kind in chunk.kinds]
    work = LayerWork(runs, store=keep, kept=chunk.entries)
    y, state = over_layers(program, unit, work, x, state)
    is_last_stage = program.is_stage(-1, unit.stage)
    state = run_if(is_last_stage, lambda s: _loss(chunk, unit, s, y), state)
    return state, chunk.message(y)


def _embed(chunk: Chunk, unit: Unit) -> Float[Array, "B t d"]:
    tokens = chunk.tokens(unit, chunk.inputs.tokens)
    rows = look_up(chunk.inputs.tables[chunk.embedding], tokens, chunk.program.tensor)
    first = put_in(chunk.inputs.weights.first, chunk.position_rows(unit))
    return chunk.program.stage.embed(first, rows, chunk.row_positions(unit))


def _each_layer(chunk: LayerChunk, unit: Unit) -> Callable:
    """One of `LayerWork.runs`."""
    context = chunk.context(unit)

    def run(layer, unit: Unit, x: Array, fetched, state: State):
        return _layer(chunk, unit, layer, context, x, state)

    return run


def _layer(chunk: LayerChunk, unit: Unit, layer, context: Tree, x, state: State):
    weights = chunk.layer_weights(unit, layer)
    trained = chunk.program.trained
    (q, k, v), pre_vjp = trained.vjp(lambda w, a: chunk.pre(w, a, context), weights, x)
    page = (layer, 0, unit.cache_pages[chunk.index])
    state = state._replace(
        keys=buffers.write(state.keys, k, *page), values=buffers.write(state.values, v, *page)
    )
    prefix = chunk.prefix(unit, layer, state)
    out, lse = chunk.attention.forward(q, k, v, prefix, chunk.starts(unit))
    out, lse = with_sinks(out, lse, chunk.sinks(weights))
    (y, sums), post_vjp = trained.vjp(chunk.post, weights, x, out)
    state = balance.add(chunk, unit, layer, state, sums)
    named = {"x": x, "q": q, "out": out, "lse": lse}
    if chunk.plan.pre:
        named = (
            residuals.stored_leaves(chunk.plan.pre, pre_vjp)
            | residuals.stored_leaves(chunk.plan.post, post_vjp)
            | named
        )
    return y, chunk.kept(named), state


def _loss(chunk: Chunk, unit: Unit, state: State, y: Float[Array, "B t d"]) -> State:
    program, weights = chunk.program, chunk.inputs.weights
    y = program.tensor.all_tokens(y)  # each device has a part of the vocabulary for all tokens
    head = chunk.inputs.tables[chunk.head]
    targets = chunk.tokens(unit, chunk.inputs.targets)
    final, block, rule = program.stage.final, program.options.loss_block, program.loss_rule
    if not program.train:
        losses = token_losses(
            final, weights.last, head, y, targets, block_tokens=block, shard=program.vocab_shard,
            rule=rule,
        )
        starts = (unit.microbatch, 0, chunk.offset)
        return state._replace(loss=buffers.write(state.loss, losses, *starts))
    grads = state.grads
    sums = grads.tables[chunk.head] if program.trains_head else None
    loss, dy, (last, table) = cross_entropy_and_grads(
        final,
        weights.last,
        head,
        y,
        targets,
        (grads.last, sums),
        block_tokens=block,
        shard=program.vocab_shard,
        rule=rule,
    )
    tables = {chunk.head: table} if program.trains_head else {}
    grads = grads._replace(last=last, tables={**grads.tables, **tables})
    dy = program.tensor.own_tokens(dy)
    dy = buffers.write(state.dy, dy.reshape(chunk.length, -1), unit.loss_offset)
    return state._replace(loss=state.loss + loss, dy=dy, grads=grads)
