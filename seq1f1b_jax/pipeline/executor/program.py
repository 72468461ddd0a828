"""The static facts of one pipelined program: what is known before the scan is traced."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate
from typing import TypeVar

import jax
import jax.numpy as jnp

from seq1f1b_jax.ops.attention import AttentionBackend
from seq1f1b_jax.ops.loss import LossRule, VocabShard
from seq1f1b_jax.ops.tensor import TensorAxis
from seq1f1b_jax.pipeline.executor.buffers import Store
from seq1f1b_jax.pipeline.executor.layers.backward import (
    LayerBackward,
    LayerSplit,
    layer_backward,
    split_layer,
)
from seq1f1b_jax.pipeline.executor.layers.kinds import KindTable, numbered
from seq1f1b_jax.pipeline.executor.layers.residuals import (
    ArenaEntry,
    ResidualPlan,
    plan_residuals,
    shared,
)
from seq1f1b_jax.pipeline.executor.shapes import layer_shapes, table_shapes, weight_shapes
from seq1f1b_jax.pipeline.executor.store import store_shapes
from seq1f1b_jax.pipeline.options import ExecutorOptions
from seq1f1b_jax.pipeline.params.layout import Layout
from seq1f1b_jax.pipeline.params.trained import Trained, find_trained
from seq1f1b_jax.pipeline.stage import (
    Params,
    Stage,
    Tree,
    kind_stages,
    kinds_of,
    logit_softcap_of,
    scoring_of,
    tensor_of,
)
from seq1f1b_jax.schedule import Op, TickTable

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Program:
    """Everything static about a step.

    Attributes:
      stage: the model as one device sees it (`stage.shard_stage`).
      layout, table: its layout on the mesh, the lowered plan.
      attention: the kernel, for the first kind of layer.
      options: how it computes.
      num_sequences: sequences per microbatch on this device.
      num_microbatches: microbatches of the step.
      platform: of the devices: `cpu`, `gpu`.
      unrolled: whether every layer of a stage has its own part of the program, and its own weights
        and accumulators.
      num_host_layers: layers of a stage whose waiting values are in host memory, the first ones.
      has_starts: whether the sequences hold documents.
      train: whether backward actions run; `False` is evaluation.
      parent: of the program of one kind of layer, the program of all kinds.
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
    parent: "Program | None" = None

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
    def loss_rule(self) -> LossRule:
        """What the loss is made of; an evaluation is of cross-entropy alone."""
        return LossRule(logit_softcap_of(self.stage), self.options.z_loss if self.train else 0.0)

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
    def trained(self) -> Trained:
        """The weights whose gradients there are."""
        return find_trained(self.stage, self.options.trainable)

    @property
    def trains_head(self) -> bool:
        """Whether the head trains, which may be the embedding."""
        return ("embedding" if self.layout.tied else "head") in self.trained

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
                trained=self.trained,
            )

        plans = self._by_length(plan)
        return self._alike(plans, [plan.entries for plan in plans], "residuals")

    @cached_property
    def layer_backwards(self) -> tuple[LayerBackward, ...]:
        """The backward of a layer, by chunk."""
        return self._by_length(partial(self._backward, layer_backward))

    @cached_property
    def layer_splits(self) -> tuple[LayerSplit, ...]:
        """How `I` and `W` share a layer's backward, by chunk; needed where the plan splits it."""
        splits = self._by_length(partial(self._backward, split_layer))
        deferred = [tuple(split.entries.values()) for split in splits]
        return self._alike(splits, deferred, "values to their weight gradients")

    def _alike(self, found: T, entries: Sequence[Sequence[ArenaEntry]], what: str) -> T:
        """What was found, if chunks of all lengths leave the same values per token."""
        kinds = {
            tuple((entry.name, entry.size / length, entry.dtype) for entry in of_chunk)
            for length, of_chunk in zip(self.lengths, entries, strict=True)
        }
        if len(kinds) > 1:
            raise ValueError(
                f"chunks of {sorted(set(self.lengths))} tokens leave different {what}: {kinds}; "
                "pre and post must compute alike at every length, or use partition='even'"
            )
        return found

    def _backward(self, make: Callable[..., T], length: int) -> T:
        """`layer_backward` or `split_layer` for chunks of a length."""
        return make(
            self.stage, self.residual_plans[self.lengths.index(length)], self.layer_shapes,
            self.layer_input(length), policy=self.options.recompute, platform=self.platform,
            own_positions=self.restart_positions, trained=self.trained,
        )

    def _by_length(self, make: Callable[[int], T]) -> tuple[T, ...]:
        """One for each chunk, made once for each length."""
        made = {length: make(length) for length in sorted(set(self.lengths))}
        return tuple(made[length] for length in self.lengths)

    @cached_property
    def kinds(self) -> tuple["Program", ...]:
        """The program of each kind of layer; itself, where layers are alike.

        It has the stage and the attention of these layers, and what follows from them.
        """
        stages = kind_stages(self.stage)
        if list(stages) == [None]:
            return (self,)
        return tuple(
            replace(self, stage=stage, attention=self.attention.of(scoring_of(stage)), parent=self)
            for stage in stages.values()
        )

    @cached_property
    def kind_table(self) -> KindTable:
        """Which kind, by its index in `kinds`, each layer of each stage is."""
        return KindTable(numbered(kinds_of(self.stage)), self.layout.layers_per_stage)

    def entries(self, chunk: int) -> dict[str, ArenaEntry]:
        """Entries of the residual ring for a chunk, of all kinds of layers."""
        kinds = (self.parent or self).kinds
        return shared(tuple(kind.residual_plans[chunk].entries for kind in kinds))

    def deferred_entries(self, chunk: int) -> dict[str, ArenaEntry]:
        """Likewise what `I` leaves to `W`."""
        kinds = (self.parent or self).kinds
        return shared(tuple(tuple(kind.layer_splits[chunk].entries.values()) for kind in kinds))

    def layer_input(self, length: int) -> jax.ShapeDtypeStruct:
        """What goes from layer to layer, on one device, for a chunk of `length` tokens."""
        tokens = length // self.tensor.token_parts
        shape = (self.num_sequences, tokens, self.stage.model_dim)
        return jax.ShapeDtypeStruct(shape, self.compute_dtype)

    def ring_shapes(self) -> Store:
        """Residuals of all units in flight."""
        return self._store(self.entries(0).values(), self.table.arena_tokens)

    def deferred_shapes(self) -> Store:
        """The same for what `I` leaves to `W`; nothing where backwards are whole."""
        if Op.W not in self.table.ops:
            return Store({})
        return self._store(self.deferred_entries(0).values(), self.table.deferred_tokens)

    def _store(self, entries: Iterable[ArenaEntry], tokens: int) -> Store:
        """Entries of the first chunk give the values per token."""
        return store_shapes(
            entries, chunk_length=self.lengths[0], tokens=tokens,
            num_layers=self.layout.max_layers, num_host_layers=self.num_host_layers,
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
