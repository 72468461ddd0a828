"""The static facts of one pipelined program: what is known before the scan is traced."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from seq1f1b_jax.ops.attention import AttentionBackend
from seq1f1b_jax.ops.loss import VocabShard
from seq1f1b_jax.ops.tensor import TensorAxis
from seq1f1b_jax.pipeline.executor.buffers import Gradients, State, Store
from seq1f1b_jax.pipeline.executor.layer import (
    LayerBackward,
    LayerSplit,
    layer_backward,
    split_layer,
)
from seq1f1b_jax.pipeline.executor.residuals import ArenaEntry, ResidualPlan, plan_residuals
from seq1f1b_jax.pipeline.executor.shapes import layer_shapes, table_shapes, weight_shapes
from seq1f1b_jax.pipeline.executor.store import store_shapes, to_host
from seq1f1b_jax.pipeline.options import ExecutorOptions
from seq1f1b_jax.pipeline.params.layout import Layout
from seq1f1b_jax.pipeline.stage import Params, Stage, Tree, tensor_of
from seq1f1b_jax.schedule import Op, TickTable

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Program:
    """Everything static about a step.

    Attributes:
      stage: the model as one device sees it (`stage.shard_stage`).
      layout, table, attention: its layout on the mesh, the lowered plan, the kernel.
      options: how it computes.
      num_sequences: sequences per microbatch on this device.
      num_microbatches: microbatches of the step.
      platform: of the devices: `cpu`, `gpu`.
      unrolled: whether every layer of a stage has its own part of the program, and its own weights
        and accumulators.
      num_host_layers: layers of a stage whose waiting values are in host memory, the first ones.
      has_starts: whether the sequences hold documents.
      train: whether backward actions run; `False` is evaluation.
    """

    stage: Stage
    layout: Layout
    table: TickTable
    attention: AttentionBackend
    options: ExecutorOptions
    num_sequences: int
    num_microbatches: int
    platform: str
    unrolled: bool
    num_host_layers: int = 0
    has_starts: bool = False
    train: bool = True

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.table.chunk_lengths

    @property
    def num_chunks(self) -> int:
        return len(self.lengths)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First token of each chunk."""
        return tuple(accumulate(self.lengths, initial=0))[:-1]

    @property
    def seq_len(self) -> int:
        return sum(self.lengths)

    @property
    def batch_shape(self) -> tuple[int, int, int]:
        return (self.num_microbatches, self.num_sequences, self.seq_len)

    @property
    def message_shape(self) -> tuple[int, int, int]:
        return self.layer_input(max(self.lengths)).shape

    @property
    def tensor(self) -> TensorAxis:
        """How layers are sharded over the devices of a stage."""
        return tensor_of(self.stage)

    @property
    def vocab_shard(self) -> VocabShard | None:
        """How the vocabulary is sharded over them, if it is."""
        return VocabShard(self.stage.vocab_size) if self.tensor.size > 1 else None

    @property
    def restart_positions(self) -> bool:
        """Whether positions count from the first token of a document."""
        return self.options.restart_positions and self.has_starts

    @property
    def compute_dtype(self) -> jnp.dtype:
        return jnp.dtype(self.options.compute_dtype)

    @property
    def accumulation_dtype(self) -> jnp.dtype:
        return jnp.promote_types(jnp.float32, self.compute_dtype)

    @property
    def position_tables(self) -> dict[str, int]:
        """Rows of the tables of positions, by their paths in `Params`."""
        return dict(self.layout.position_tables)

    @cached_property
    def weight_shapes(self) -> Params:
        """See `shapes.weight_shapes`."""
        return weight_shapes(
            self.stage, self.layout, dtype=self.compute_dtype, unrolled=self.unrolled
        )

    @cached_property
    def table_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """See `shapes.table_shapes`."""
        return table_shapes(self.stage, self.layout, dtype=self.compute_dtype)

    @cached_property
    def layer_shapes(self) -> Tree:
        """One layer's weights in the compute dtype."""
        return layer_shapes(self.stage, dtype=self.compute_dtype)

    @cached_property
    def residual_plans(self) -> tuple[ResidualPlan, ...]:
        """One plan per chunk; a program that does not train stores nothing."""
        if not self.train:
            return tuple(ResidualPlan((), (), ()) for _ in self.lengths)

        def plan(length: int) -> ResidualPlan:
            return plan_residuals(
                self.stage, self.layer_shapes, self.layer_input(length),
                policy=self.options.recompute, own_positions=self.restart_positions,
            )

        plans = self._by_length(plan)
        names = {tuple(entry.name for entry in plan.entries) for plan in plans}
        if len(names) > 1:
            raise ValueError(
                f"chunks of {sorted(set(self.lengths))} tokens leave different residuals {names}; "
                "pre and post must compute alike at every length, or use partition='even'"
            )
        return plans

    @cached_property
    def layer_backwards(self) -> tuple[LayerBackward, ...]:
        """The backward of a layer, by chunk."""
        return self._by_length(partial(self._backward, layer_backward))

    @cached_property
    def layer_splits(self) -> tuple[LayerSplit, ...]:
        """How `I` and `W` share a layer's backward, by chunk; needed where the plan splits it."""
        splits = self._by_length(partial(self._backward, split_layer))
        kinds = {
            tuple((name, e.size / length, e.dtype) for name, e in split.entries.items())
            for length, split in zip(self.lengths, splits, strict=True)
        }
        if len(kinds) > 1:
            raise ValueError(
                f"chunks of {sorted(set(self.lengths))} tokens leave different values to their "
                f"weight gradients: {kinds}; pre and post must compute alike at every length, or "
                "use a schedule without W"
            )
        return splits

    def _backward(self, make: Callable[..., T], length: int) -> T:
        """`layer_backward` or `split_layer` for chunks of a length."""
        return make(
            self.stage, self.residual_plans[self.lengths.index(length)], self.layer_shapes,
            self.layer_input(length), policy=self.options.recompute, platform=self.platform,
            own_positions=self.restart_positions,
        )

    def _by_length(self, make: Callable[[int], T]) -> tuple[T, ...]:
        """One for each chunk, made once for each length."""
        made = {length: make(length) for length in sorted(set(self.lengths))}
        return tuple(made[length] for length in self.lengths)

    def layer_input(self, length: int) -> jax.ShapeDtypeStruct:
        """What goes from layer to layer, on one device, for a chunk of `length` tokens."""
        tokens = length // self.tensor.token_parts
        shape = (self.num_sequences, tokens, self.stage.model_dim)
        return jax.ShapeDtypeStruct(shape, self.compute_dtype)

    def ring_shapes(self) -> Store:
        """Residuals of all units in flight."""
        return self._store(self.residual_plans[0].entries, self.table.arena_tokens)

    def deferred_shapes(self) -> Store:
        """The same for what `I` leaves to `W`; nothing where backwards are whole."""
        if Op.W not in self.table.ops:
            return Store({})
        return self._store(self.layer_splits[0].entries.values(), self.table.deferred_tokens)

    def _store(self, entries: Iterable[ArenaEntry], tokens: int) -> Store:
        """Entries of the first chunk give the values per token."""
        return store_shapes(
            entries, chunk_length=self.lengths[0], tokens=tokens,
            num_layers=self.layout.max_layers, num_host_layers=self.num_host_layers,
        )

    def state_shapes(self) -> State:
        """Shapes and dtypes of the carried state."""
        stage, acc = self.stage, self.accumulation_dtype
        layers, batch = self.layout.max_layers, self.num_sequences
        heads = (stage.num_kv_heads, stage.head_dim)
        cache = jax.ShapeDtypeStruct(
            (layers, batch, self.table.cache_tokens, *heads), self.compute_dtype
        )
        prefix = self.offsets[-1] if self.train else 0
        prefix_slots = max(1, self.table.num_prefix_slots)
        prefix_shape = jax.ShapeDtypeStruct((prefix_slots, layers, batch, prefix, *heads), acc)
        grads = None
        if self.train:
            weights = self.weight_shapes
            like = Gradients(weights.layers, weights.first, weights.last, self.table_shapes)
            grads = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, acc), like)
        return State(
            ring=self.ring_shapes(),
            deferred=self.deferred_shapes(),
            keys=cache,
            values=cache,
            prefix_dk=prefix_shape,
            prefix_dv=prefix_shape,
            dy=jax.ShapeDtypeStruct(
                (self.table.loss_tokens, math.prod(self.message_shape) // max(self.lengths)),
                self.compute_dtype,
            ),
            grads=grads,
            loss=jax.ShapeDtypeStruct(() if self.train else self.batch_shape, acc),
        )

    def initial_state(self) -> State:
        """Zeros where sums begin; the rest is written before it is read, and not initialised.

        On a GPU, that is: on a CPU an empty array is one of zeros.
        """
        shapes, value = self.state_shapes(), self.options.fill

        def unwritten(s: jax.ShapeDtypeStruct) -> jax.Array:
            if value is None:
                return lax.empty(s.shape, s.dtype)
            is_bits = jnp.issubdtype(s.dtype, jnp.unsignedinteger)  # all ones: NaN
            return jnp.full(s.shape, jnp.iinfo(s.dtype).max if is_bits else value, s.dtype)

        def placed(store: Store) -> Store:
            return store._replace(host=jax.tree.map(to_host, store.host))

        def zeros(s: jax.ShapeDtypeStruct) -> jax.Array:
            return jnp.zeros(s.shape, s.dtype)

        state = jax.tree.map(unwritten, shapes)
        return state._replace(
            ring=placed(state.ring), deferred=placed(state.deferred),
            grads=jax.tree.map(zeros, shapes.grads), loss=zeros(shapes.loss),
        )

    @property
    def blank(self) -> float:
        """Content of messages of ranks without an action, and of padding: sent, never read."""
        return 0.0 if self.options.fill is None else self.options.fill

    def num_layers_of(self, stage: jax.Array) -> int | jax.Array:
        """Trip count of the layer loop of a stage: static where all stages are alike."""
        counts = self.layout.layers_per_stage
        if len(set(counts)) == 1:
            return counts[0]
        return jnp.asarray(counts, jnp.int32)[stage]

    def layer_row(self, stage: jax.Array, layer: int | jax.Array) -> int | jax.Array:
        """Row of a layer of a stage in this rank's stack of weights."""
        if self.layout.stages_per_rank == 1:
            return layer
        return stage // self.layout.num_ranks * self.layout.max_layers + layer

    def is_stage(self, index: int, stage: jax.Array) -> bool | jax.Array:
        """Whether a stage is the one of this index (-1: the last): known where there is one."""
        count = len(self.layout.layers_per_stage)
        return True if count == 1 else stage == index % count
