"""One step of microbatches through a pipeline: loss, gradients, parameters to and from the mesh."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as Spec
from jaxtyping import Array, Float, Int, PRNGKeyArray

from seq1f1b_jax.ops.attention import AttentionBackend, Heads, for_documents
from seq1f1b_jax.ops.axes import DATA, PIPE, axis_size
from seq1f1b_jax.ops.loss import num_targets
from seq1f1b_jax.ops.tensor import TensorAxis
from seq1f1b_jax.pipeline.batch import Tokens, check_batch, check_ids
from seq1f1b_jax.pipeline.executor.program import Program
from seq1f1b_jax.pipeline.executor.scan import run_schedule
from seq1f1b_jax.pipeline.executor.trace import Recorder, record
from seq1f1b_jax.pipeline.halves import Halves, tensor_axis
from seq1f1b_jax.pipeline.memory import with_loss_block
from seq1f1b_jax.pipeline.options import ExecutorOptions
from seq1f1b_jax.pipeline.params.fresh import fresh
from seq1f1b_jax.pipeline.params.layout import Layout, staged_shapes
from seq1f1b_jax.pipeline.params.rows import from_pipeline, put_tree
from seq1f1b_jax.pipeline.params.sharding import (
    batch_spec,
    reduce_over_data,
    shardings,
    specs,
)
from seq1f1b_jax.pipeline.params.trained import Trained, find_trained
from seq1f1b_jax.pipeline.stage import (
    Params,
    Stage,
    kind_stages,
    scoring_of,
    shard_stage,
    value_dim_of,
)
from seq1f1b_jax.pipeline.weights import collect_gradients, prepare_inputs
from seq1f1b_jax.schedule import Plan, TickTable, forward_plan, lower


@dataclass(frozen=True, eq=False)
class PipelineStep:
    """Loss and gradients of one step of microbatches through a pipeline of sequence chunks.

    Made by `build_step`. `loss_and_grads` and `loss` are pure functions for `jax.jit`; the others
    move parameters between host and mesh.
    """

    stage: Stage
    plan: Plan
    table: TickTable
    mesh: Mesh
    layout: Layout
    attention: AttentionBackend
    options: ExecutorOptions
    unrolled: bool = False
    num_host_layers: int = 0
    recorder: Recorder | None = None

    def traced(self, recorder: Recorder) -> "PipelineStep":
        """The same step, whose `loss_and_grads` reports when each action ran; see `trace`."""
        return replace(self, recorder=recorder)

    def with_lengths(self, chunk_lengths: Sequence[int]) -> "PipelineStep":
        """The same step for other chunk lengths; parameters stay where they are."""
        return replace(self, table=lower(self.plan, tuple(chunk_lengths)))

    def init(self, key: PRNGKeyArray) -> Params:
        """Fresh float32 parameters on the mesh, in the in-memory layout.

        Each process makes what its devices hold, in its host's memory; see `fresh`.
        """
        return self.from_canonical(fresh(self.stage, key))

    def init_optimizer(self, optimizer: optax.GradientTransformation, params: Params) -> Any:
        """The state of an optimizer over those of the parameters on the mesh that train.

        Moments are sharded over `data` (`sharding`). Counters and other scalars are replicated over
        the mesh: a jitted update keeps the sharding of its state, and so is compiled once.
        """
        own = self.trained.only(params)
        shapes = jax.eval_shape(optimizer.init, own)
        sharded = shardings(shapes, self.mesh, self.layout, over_data=True)
        return jax.jit(optimizer.init, out_shardings=sharded)(own)

    def abstract_params(self) -> Params:
        """Shapes, dtypes and shardings of the in-memory parameters: what a compilation needs."""
        return self._abstract_params

    @cached_property
    def _abstract_params(self) -> Params:
        shapes = jax.eval_shape(self.stage.init, jax.random.key(0))
        staged = staged_shapes(shapes, self.layout)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            staged,
            shardings(staged, self.mesh, self.layout),
        )

    def from_canonical(self, tree: Any, *, over_data: bool = False) -> Any:
        """Put a tree in the topology-free layout (`[num_layers, ...]`) on the mesh.

        Args:
          tree: parameters, or with `over_data` an optimizer's state, which is sharded over `data`;
            arrays, or `rows.Rows` that are made or read on the way.
          over_data: see `sharding`.
        """
        staged = staged_shapes(tree, self.layout)
        sharded = shardings(staged, self.mesh, self.layout, over_data=over_data)
        return put_tree(tree, sharded, self.layout)

    def to_canonical(self, tree: Any) -> Any:
        """Bring a tree back to the host in the topology-free layout; the inverse."""
        return from_pipeline(tree, self.layout)

    def loss_and_grads(
        self, params: Params, tokens: Tokens, targets: Tokens, starts: Tokens | None = None
    ) -> tuple[Float[Array, ""], Params]:
        """Mean loss over targets and its gradient by every parameter.

        Args:
          params: in-memory layout (`init`, `from_canonical`).
          tokens: int32 `[num_microbatches, sequences, seq_len]`; the sequences are sharded over the
            axis `data`.
          targets: likewise; a negative target carries no loss.
          starts: likewise; position of the first token of every token's document, where sequences
            hold documents. A token sees no other document. `None`: one document.

        Returns:
          Loss in nats per target, with what `options` add to it, and gradients in the accumulation
          dtype, laid out as `params` and sharded over `data` (`sharding`), `None` where frozen.
        """
        self._check(tokens, targets, starts)
        if self.plan.forward_only:
            raise ValueError(
                f"plan {self.plan.name} holds no backward, so it has no gradients; train with "
                "another plan, or use PipelineStep.loss"
            )
        if tokens.shape[0] != self.plan.num_microbatches:
            raise ValueError(
                f"tokens hold {tokens.shape[0]} microbatches and the plan runs "
                f"{self.plan.num_microbatches}; build the step with num_microbatches="
                f"{tokens.shape[0]}, or reshape the batch"
            )
        program = self.program(tokens.shape[1] // self.num_data, has_starts=starts is not None)
        others = [axis for axis in self.mesh.axis_names if axis != PIPE]
        record_all = partial(record, recorder=self.recorder, axes=others)
        wrap = record_all if self.recorder else None

        def body(params: Params, tokens: Array, targets: Array, starts: Array | None):
            count = num_targets(targets)
            if self.num_data > 1:
                count = lax.psum(count, DATA)
            count = jnp.maximum(count, 1).astype(program.accumulation_dtype)
            of_sequence = count / (tokens.shape[0] * tokens.shape[1] * self.num_data)
            inputs = prepare_inputs(program, params, tokens, targets, starts, of_sequence)
            state = run_schedule(program, inputs, wrap=wrap)
            loss = lax.psum(state.loss, DATA) if self.num_data > 1 else state.loss
            grads = collect_gradients(program, state.grads)
            grads = jax.tree.map(lambda g: g / count, grads)
            grads = reduce_over_data(grads, self.layout, num_data=self.num_data)
            return lax.psum(loss, PIPE) / count, grads

        own = self.trained.only(self.abstract_params())
        out_specs = specs(own, self.layout, num_data=self.num_data)
        return self._shard(body, (Spec(), out_specs))(params, tokens, targets, starts)

    def loss(
        self, params: Params, tokens: Tokens, targets: Tokens, starts: Tokens | None = None
    ) -> Float[Array, ""]:
        """Mean loss in nats per target by the same pipeline, forward only (evaluation)."""
        losses = self.token_losses(params, tokens, targets, starts)
        return losses.sum() / count_targets(targets).astype(losses.dtype)

    def token_losses(
        self, params: Params, tokens: Tokens, targets: Tokens, starts: Tokens | None = None
    ) -> Float[Array, "M B T"]:
        """Loss of every target in nats, 0 where it carries none; arguments as `loss_and_grads`.

        Any number of microbatches will do.
        """
        self._check(tokens, targets, starts)
        plan = forward_plan(
            num_ranks=self.plan.num_ranks,
            num_microbatches=tokens.shape[0],
            num_chunks=self.plan.num_chunks,
            stages_per_rank=self.plan.stages_per_rank,
        )
        table = lower(plan, self.table.chunk_lengths)
        program = self.program(tokens.shape[1] // self.num_data, has_starts=starts is not None)
        program = replace(
            program, table=table, num_microbatches=tokens.shape[0], num_host_layers=0, train=False
        )

        def body(params: Params, tokens: Array, targets: Array, starts: Array | None):
            state = run_schedule(program, prepare_inputs(program, params, tokens, targets, starts))
            return lax.psum(state.loss, PIPE)

        return self._shard(body, batch_spec(self.mesh))(params, tokens, targets, starts)

    @cached_property
    def trained(self) -> Trained:
        """The leaves that train."""
        return find_trained(self.stage, self.options.trainable)

    @property
    def num_data(self) -> int:
        """Pipelines that share the sequences of a microbatch."""
        return axis_size(self.mesh, DATA)

    @property
    def tensor(self) -> TensorAxis:
        """How layers are sharded over the devices of a stage."""
        return tensor_axis(self.layout.num_tensor, self.options)

    def program(self, num_sequences: int, *, has_starts: bool = False) -> Program:
        """The static facts of the step for microbatches of `num_sequences`.

        Args:
          num_sequences: sequences per microbatch on one device.
          has_starts: whether they hold documents.

        Raises:
          ValueError: documents, for an attention backend that was named and has no mask for them.
        """
        stage, attention = shard_stage(self.stage, self.tensor), self.attention
        stage = Halves(stage) if self.options.halves else stage
        if has_starts:
            attention = for_documents(
                self.options.attention, attention, list(self.mesh.devices.flat),
                heads_of(stage, self.options),
            )
        program = Program(
            stage=stage,
            layout=self.layout,
            table=self.table,
            attention=attention,
            options=self.options,
            num_sequences=num_sequences,
            num_microbatches=self.plan.num_microbatches,
            platform=self.mesh.devices.flat[0].platform,
            unrolled=self.unrolled,
            num_host_layers=self.num_host_layers,
            has_starts=has_starts,
        )
        return with_loss_block(program)

    def _shard(self, body: Callable, out_specs: Any) -> Callable:
        return jax.shard_map(
            body,
            mesh=self.mesh,
            in_specs=(specs(self.abstract_params(), self.layout), *(batch_spec(self.mesh),) * 3),
            out_specs=out_specs,
            check_vma=False,
        )

    def _check(self, tokens: Tokens, targets: Tokens, starts: Tokens | None) -> None:
        check_batch(
            tokens, targets, starts, chunk_lengths=self.table.chunk_lengths,
            num_pipelines=self.num_data,
        )
        check_ids(tokens, targets, vocab_size=self.stage.vocab_size)


def count_targets(targets: Tokens) -> Int[Array, ""]:
    """How many targets carry loss; at least 1, so that an empty batch has loss 0."""
    return jnp.maximum(num_targets(targets), 1)

def heads_of(stage: Stage, options: ExecutorOptions) -> Heads:
    """What attention is computed of on one device."""
    scorings = [scoring_of(kind) for kind in kind_stages(stage).values()]
    return Heads(
        num_heads=stage.num_heads,
        num_kv_heads=stage.num_kv_heads,
        dim=stage.head_dim,
        dtype=jnp.dtype(options.compute_dtype).name,
        value_dim=value_dim_of(stage),
        scorings=tuple(dict.fromkeys(scorings)),
    )
