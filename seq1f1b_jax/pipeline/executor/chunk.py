"""What the actions of one chunk share: its tokens, its values, its weights.

Shapes are per device. Everything about a chunk is static (length, offset), everything about a unit
is traced (stage, microbatch, slots).
"""

from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.attention import Prefix
from seq1f1b_jax.pipeline.executor import buffers
from seq1f1b_jax.pipeline.executor.buffers import State
from seq1f1b_jax.pipeline.executor.layers import residuals
from seq1f1b_jax.pipeline.executor.program import Program
from seq1f1b_jax.pipeline.executor.store import Place
from seq1f1b_jax.pipeline.params.positions import look_up
from seq1f1b_jax.pipeline.params.vocabulary import table_names
from seq1f1b_jax.pipeline.stage import Params, Tree, leaf_at, sinks_of


class Inputs(NamedTuple):
    """What no action changes: compute copies of this rank's weights, and the step's tokens.

    Attributes:
      weights: `layers` as in `buffers.Gradients`; its tables are not used.
      tables: of the vocabulary, see `vocabulary.gather_tables`; of positions by their paths in
        `Params`, see `positions.gather`.
      tokens, targets: `[M, B, T]`; targets below zero carry no loss.
      starts: position of the first token of every token's document; `None`: one document.
      sequence_targets: targets that carry loss, on average over the step's sequences.
    """

    weights: Params
    tables: dict[str, Array]
    tokens: Int[Array, "M B T"]
    targets: Int[Array, "M B T"]
    starts: Int[Array, "M B T"] | None = None
    sequence_targets: Float[Array, ""] | float = 0.0


class Unit(NamedTuple):
    """What an action works on and where that is stored; traced scalars, offsets count tokens.

    The fields are those of `ActionColumns`; `cache_pages` has an offset for every chunk.
    """

    stage: Int[Array, ""]
    microbatch: Int[Array, ""]
    cache_pages: Int[Array, "C"]
    prefix_slot: Int[Array, ""]
    arena_offset: Int[Array, ""]
    loss_offset: Int[Array, ""]
    deferred_offset: Int[Array, ""]


class WeightUnit(NamedTuple):
    """What a `W` works on; traced scalars."""

    stage: Int[Array, ""]
    microbatch: Int[Array, ""]
    arena_offset: Int[Array, ""]
    deferred_offset: Int[Array, ""]


class Chunk:
    """One chunk of the sequence, at static offset and length."""

    def __init__(self, program: Program, index: int, inputs: Inputs):
        self.program, self.inputs = program, inputs
        self.index = index
        self.offset, self.length = program.offsets[index], program.lengths[index]
        self.num_rows = self.length // program.tensor.token_parts
        self.is_last = index == program.num_chunks - 1
        self.entries = program.entries(index)
        self.embedding, self.head = table_names(program.layout)

    @cached_property
    def kinds(self) -> tuple["LayerChunk", ...]:
        """The chunk in each kind of layer."""
        return tuple(LayerChunk(kind, self.index, self.inputs) for kind in self.program.kinds)

    def positions(self, unit: Unit | WeightUnit) -> Int[Array, "*B T"]:
        """Positions of the chunk's tokens in the sequence, or in their documents."""
        positions = self.offset + jnp.arange(self.length, dtype=jnp.int32)
        starts = self.starts(unit) if self.program.restart_positions else None
        return positions if starts is None else positions - starts

    def row_positions(self, unit: Unit | WeightUnit) -> Int[Array, "*B t"]:
        """Positions of this device's tokens of the residual stream."""
        positions = self.positions(unit)
        return self.program.tensor.own_tokens(positions, dim=positions.ndim - 1)

    def position_rows(self, unit: Unit) -> dict[str, Float[Array, "*B t n"]]:
        """Of the tables of positions, the rows of these tokens."""
        positions, tables = self.positions(unit), self.inputs.tables
        return {
            name: look_up(tables[name], positions, self.program.tensor)
            for name in self.program.position_tables
        }

    def starts(self, unit: Unit | WeightUnit) -> Int[Array, "B T"] | None:
        """First position of the documents of the unit's tokens."""
        starts = self.inputs.starts
        return None if starts is None else self.tokens(unit, starts)

    def tokens(self, unit: Unit | WeightUnit, tokens: Int[Array, "M B S"]) -> Int[Array, "B T"]:
        """The unit's part of the step's tokens, targets or starts, in sequences of length S."""
        shape = (self.program.num_sequences, self.length)
        return buffers.read(tokens, shape, unit.microbatch, 0, self.offset)

    def layer_weights(self, unit: Unit | WeightUnit, layer) -> Tree:
        """Weights of a layer of the unit's stage."""
        row = self.program.layer_row(unit.stage, layer)
        layers = self.inputs.weights.layers
        if self.program.unrolled:
            return layers[row]
        return jax.tree.map(lambda w: lax.dynamic_index_in_dim(w, row, 0, False), layers)

    def prefix(self, unit: Unit, layer, state: State) -> Prefix | None:
        """Keys and values of everything before this chunk, `[B, offset, Hkv, D]`.

        Joining pages costs what reading them costs: attention takes no view of the cache.
        """
        if self.index == 0:
            return None
        pages = [self._page(unit, layer, state, index) for index in range(self.index)]
        return jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), *pages)

    def own(self, unit: Unit, layer, state: State) -> Prefix:
        """Keys and values of this chunk, `[B, T, Hkv, D]`."""
        return self._page(unit, layer, state, self.index)

    def _page(self, unit: Unit, layer, state: State, index: int) -> Prefix:
        where = (layer, 0, unit.cache_pages[index])

        def read(cache: Array) -> Array:
            _, batch, _, heads, dim = cache.shape
            return buffers.read(cache, (batch, self.program.lengths[index], heads, dim), *where)

        return Prefix(read(state.keys), read(state.values))

    def place(self, offset: Array, layer: int | Array, *, on_host: bool) -> Place:
        """Where the unit's values of a layer wait, from a token of the ring or of the deferred."""
        row = layer if on_host else layer - self.program.num_host_layers
        return Place(on_host, row, offset, self.length)

    def message(self, value: Float[Array, "B t d"]) -> Float[Array, "B Tmax d"]:
        """A value as it is sent: padded to the longest chunk."""
        padding = self.program.message_shape[1] - self.num_rows
        fill = jnp.asarray(self.program.blank, value.dtype)
        return lax.pad(value, fill, ((0, 0, 0), (0, padding, 0), (0, 0, 0)))


class LayerChunk(Chunk):
    """A chunk in one kind of layer."""

    def __init__(self, program: Program, index: int, inputs: Inputs):
        super().__init__(program, index, inputs)
        self.plan, self.attention = program.residual_plans[index], program.attention
        self.pre, self.post = residuals.layer_functions(program.stage, program.options.recompute)

    def context(self, unit: Unit | WeightUnit) -> Tree:
        """Constants that depend on the positions."""
        return self.program.stage.context(self.positions(unit))

    def kept(self, values: dict[str, Array]) -> dict[str, Array]:
        """The entries among the values of a layer; those of other kinds only are zeros."""
        return {
            name: values[name] if name in values else jnp.zeros(entry.shape, entry.dtype)
            for name, entry in self.entries.items()
        }

    def own_entries(self, stored: dict[str, Array]) -> dict[str, Array]:
        """Those of this kind among the entries of all."""
        return {entry.name: stored[entry.name] for entry in self.plan.entries}

    def sinks(self, weights: Tree) -> Array | None:
        """The layer's attention sinks `[Hq]`, if it has some."""
        name = sinks_of(self.program.stage)
        return None if name is None else leaf_at(weights, name)
