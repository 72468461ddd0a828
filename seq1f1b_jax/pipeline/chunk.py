"""One action on one unit: the forward and the backward of a chunk through a stage's layers.

Shapes are per device. An action is a function state -> (state, message out); everything about its
chunk is static (length, offset), everything about its unit is traced (microbatch, slots).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.loss import cross_entropy, cross_entropy_and_grads
from seq1f1b_jax.pipeline import buffers, residuals
from seq1f1b_jax.pipeline.buffers import State
from seq1f1b_jax.pipeline.control import run_if
from seq1f1b_jax.pipeline.program import Program
from seq1f1b_jax.pipeline.stage import Params, Tree
from seq1f1b_jax.pipeline.vocabulary import table_names


class Inputs(NamedTuple):
    """What no action changes: compute copies of this rank's weights, and the step's tokens.

    Attributes:
      weights: `layers` leaves `[max_layers, ...]`; the tables inside are not used.
      tables: whole vocabulary tables, see `vocabulary.gather_tables`.
      tokens, targets: `[M, B, T]`; targets below zero carry no loss.
    """

    weights: Params
    tables: dict[str, Array]
    tokens: Int[Array, "M B T"]
    targets: Int[Array, "M B T"]


class Unit(NamedTuple):
    """Where a unit lives; traced scalars. `arena_offset` counts tokens."""

    microbatch: Int[Array, ""]
    cache_slot: Int[Array, ""]
    arena_offset: Int[Array, ""]


class Chunk:
    """The actions of one chunk of the sequence, at static offset and length."""

    def __init__(self, program: Program, index: int, inputs: Inputs):
        self.program, self.inputs = program, inputs
        self.offset, self.length = program.offsets[index], program.lengths[index]
        self.is_last = index == program.num_chunks - 1
        self.plan = program.residual_plans[index]
        self.entries = {entry.name: entry for entry in self.plan.entries}
        self.functions = residuals.layer_functions(program.stage, program.policy)
        self.embedding, self.head = table_names(program.layout)

    # -- forward ------------------------------------------------------------------------------

    def forward(
        self, unit: Unit, state: State, message: Float[Array, "B Tmax d"]
    ) -> tuple[State, Float[Array, "B Tmax d"]]:
        """F: run the layers, fill cache and ring; the last stage adds loss and its gradient."""
        program = self.program
        x = message[:, : self.length]
        x = run_if(program.is_stage(0), lambda _: self._embed(unit), x)
        context = program.stage.context(self._positions())

        def layer_step(layer, carry):
            return self._forward_layer(unit, layer, context, *carry)

        y, state = lax.fori_loop(0, program.num_layers_here(), layer_step, (x, state))
        is_last_stage = program.is_stage(program.layout.num_stages - 1)
        state = run_if(is_last_stage, lambda s: self._loss(unit, s, y), state)
        return state, self._message(y)

    def _embed(self, unit: Unit) -> Float[Array, "B T d"]:
        rows = self.inputs.tables[self.embedding][self._tokens(unit, self.inputs.tokens)]
        return self.program.stage.embed(self.inputs.weights.first, rows, self._positions())

    def _forward_layer(self, unit: Unit, layer, context: Tree, x, state: State):
        pre, post = self.functions
        weights = self._layer_weights(layer)
        (q, k, v), pre_vjp = jax.vjp(lambda w, a: pre(w, a, context), weights, x)
        state = state._replace(
            keys=buffers.write(state.keys, k, unit.cache_slot, layer, 0, self.offset),
            values=buffers.write(state.values, v, unit.cache_slot, layer, 0, self.offset),
        )
        keys, values = self._prefix(unit, layer, state)
        out, lse = self.program.attention.forward(q, keys, values, self.offset)
        y, post_vjp = jax.vjp(post, weights, x, out)
        named = {"x": x, "q": q, "out": out, "lse": lse}
        if self.plan.pre:
            named = (
                residuals.stored_leaves(self.plan.pre, pre_vjp)
                | residuals.stored_leaves(self.plan.post, post_vjp)
                | named
            )
        ring = state.ring
        for name, entry in self.entries.items():
            ring = buffers.write_residual(
                ring,
                entry,
                named[name],
                layer=layer,
                arena_offset=unit.arena_offset,
                tokens=self.length,
            )
        return y, state._replace(ring=ring)

    def _loss(self, unit: Unit, state: State, y: Float[Array, "B T d"]) -> State:
        program, weights = self.program, self.inputs.weights
        head = self.inputs.tables[self.head]
        targets = self._tokens(unit, self.inputs.targets)
        final, block = program.stage.final, program.loss_block
        if not program.train:
            loss = cross_entropy(final, weights.last, head, y, targets, block_tokens=block)
            return state._replace(loss=state.loss + loss)
        grads = state.grads
        loss, dy, (last, table) = cross_entropy_and_grads(
            final,
            weights.last,
            head,
            y,
            targets,
            (grads.last, grads.tables[self.head]),
            block_tokens=block,
        )
        grads = grads._replace(last=last, tables={**grads.tables, self.head: table})
        dy = buffers.write(state.dy, dy.reshape(self.length, -1), unit.arena_offset)
        return state._replace(loss=state.loss + loss, dy=dy, grads=grads)

    # -- backward -----------------------------------------------------------------------------

    def backward(
        self, unit: Unit, state: State, message: Float[Array, "B Tmax d"]
    ) -> tuple[State, Float[Array, "B Tmax d"]]:
        """B: pull the output gradient through the layers; the first stage adds to the embedding."""
        program = self.program
        dy = message[:, : self.length]
        is_last_stage = program.is_stage(program.layout.num_stages - 1)
        dy = run_if(is_last_stage, lambda _: self._loss_gradient(unit, state), dy)
        context = program.stage.context(self._positions())
        num_layers = program.num_layers_here()

        def layer_step(step, carry):
            return self._backward_layer(unit, num_layers - 1 - step, context, *carry)

        dx, state = lax.fori_loop(0, num_layers, layer_step, (dy, state))
        state = run_if(program.is_stage(0), lambda s: self._embed_backward(unit, s, dx), state)
        return state, self._message(dx)

    def _loss_gradient(self, unit: Unit, state: State) -> Float[Array, "B T d"]:
        shape = (self.length, state.dy.shape[1])
        dy = buffers.read(state.dy, shape, unit.arena_offset)
        return dy.reshape(self.program.batch, self.length, -1)

    def _backward_layer(self, unit: Unit, layer, context: Tree, dy, state: State):
        pre, post = self.functions
        weights = self._layer_weights(layer)
        saved = {
            name: buffers.read_residual(
                state.ring, entry, layer=layer, arena_offset=unit.arena_offset, tokens=self.length
            )
            for name, entry in self.entries.items()
        }
        keys, values = self._prefix(unit, layer, state)
        x = saved["x"]
        (q, _, _), pre_vjp = jax.vjp(lambda w, a: pre(w, a, context), weights, x)
        if self.plan.pre:
            q, out, lse = saved["q"], saved["out"], saved["lse"]
            saved |= {"k": keys[:, self.offset :], "v": values[:, self.offset :]}
        else:  # policy `full`
            out, lse = self.program.attention.forward(q, keys, values, self.offset)
        _, post_vjp = jax.vjp(post, weights, x, out)
        d_post, dx_residual, dout = residuals.pull(self.plan.post, saved, post_vjp)(dy)
        dq, dk, dv = self.program.attention.backward(q, keys, values, self.offset, out, lse, dout)
        state, dk, dv = self._prefix_gradients(layer, state, dk, dv)
        cotangents = (dq, dk.astype(q.dtype), dv.astype(q.dtype))
        d_pre, dx = residuals.pull(self.plan.pre, saved, pre_vjp)(cotangents)
        d_layer = jax.tree.map(jnp.add, d_pre, d_post)
        grads = state.grads
        grads = grads._replace(layers=buffers.accumulate(grads.layers, d_layer, layer))
        return dx + dx_residual, state._replace(grads=grads)

    def _prefix_gradients(self, layer, state: State, dk, dv):
        """Add a chunk's share to the prefix; return the complete gradient of its own keys/values.

        Chunks run descending, so the last one sets what the others add to; its own tokens are
        complete at once and need no place in the buffer. The others write first and read back what
        they wrote: so no older version of the buffer stays alive.
        """
        if self.is_last:
            if self.offset:
                prefix_dk = buffers.write(state.prefix_dk, dk[:, : self.offset], layer)
                prefix_dv = buffers.write(state.prefix_dv, dv[:, : self.offset], layer)
                state = state._replace(prefix_dk=prefix_dk, prefix_dv=prefix_dv)
            return state, dk[:, self.offset :], dv[:, self.offset :]

        def add(buffer, delta):
            return buffers.write(buffer, delta + buffers.read(buffer, delta.shape, layer), layer)

        state = state._replace(
            prefix_dk=add(state.prefix_dk, dk), prefix_dv=add(state.prefix_dv, dv)
        )
        own = (dk.shape[0], self.length, *dk.shape[2:])
        own_dk = buffers.read(state.prefix_dk, own, layer, 0, self.offset)
        own_dv = buffers.read(state.prefix_dv, own, layer, 0, self.offset)
        return state, own_dk, own_dv

    def _embed_backward(self, unit: Unit, state: State, dx: Float[Array, "B T d"]) -> State:
        stage, first = self.program.stage, self.inputs.weights.first
        tokens = self._tokens(unit, self.inputs.tokens)
        rows = self.inputs.tables[self.embedding][tokens]
        _, pull = jax.vjp(lambda f, r: stage.embed(f, r, self._positions()), first, rows)
        d_first, d_rows = pull(dx)
        grads = state.grads
        table = grads.tables[self.embedding]
        table = table.at[tokens].add(d_rows.astype(table.dtype))
        grads = grads._replace(
            first=buffers.add_tree(grads.first, d_first),
            tables={**grads.tables, self.embedding: table},
        )
        return state._replace(grads=grads)

    # -- shared -------------------------------------------------------------------------------

    def _positions(self) -> Int[Array, "T"]:
        return self.offset + jnp.arange(self.length, dtype=jnp.int32)

    def _tokens(self, unit: Unit, tokens: Int[Array, "M B T"]) -> Int[Array, "B T"]:
        shape = (self.program.batch, self.length)
        return buffers.read(tokens, shape, unit.microbatch, 0, self.offset)

    def _layer_weights(self, layer) -> Tree:
        layers = self.inputs.weights.layers
        return jax.tree.map(lambda w: lax.dynamic_index_in_dim(w, layer, 0, False), layers)

    def _prefix(self, unit: Unit, layer, state: State):
        """Keys and values of everything up to and with this chunk, `[B, offset + T, Hkv, D]`."""
        _, _, batch, _, heads, dim = state.keys.shape
        shape = (batch, self.offset + self.length, heads, dim)
        return (
            buffers.read(state.keys, shape, unit.cache_slot, layer),
            buffers.read(state.values, shape, unit.cache_slot, layer),
        )

    def _message(self, value: Float[Array, "B T d"]) -> Float[Array, "B Tmax d"]:
        padding = self.program.message_shape[1] - self.length
        fill = jnp.asarray(self.program.fill, value.dtype)
        return lax.pad(value, fill, ((0, 0, 0), (0, padding, 0), (0, 0, 0)))
