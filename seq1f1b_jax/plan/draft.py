"""A run on paper: a configuration, the shape of its model, and all that follows from them."""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial

from seq1f1b_jax.config import Config
from seq1f1b_jax.ops.pairs import block_of, block_scores
from seq1f1b_jax.plan.hardware import Hardware
from seq1f1b_jax.plan.model.kept import Tokens, deferred, residuals
from seq1f1b_jax.plan.model.shape import ModelShape, shape_of
from seq1f1b_jax.plan.model.state import (
    Spread,
    StateBytes,
    num_gradients,
    state_bytes,
    trained_weights,
)
from seq1f1b_jax.plan.order import choose_plan, chunk_lengths, lowered
from seq1f1b_jax.schedule import Plan, StageCost, TickTable, balanced_layers
from seq1f1b_jax.schedule.memory.layers import is_unrolled, offloaded_layers
from seq1f1b_jax.schedule.memory.sizes import Scores, StepSizes
from seq1f1b_jax.schedule.simulation.cost_table import CostTable
from seq1f1b_jax.schedule.simulation.durations import trained_conditions
from seq1f1b_jax.schedule.simulation.layers import even_layers
from seq1f1b_jax.schedule.simulation.measured import MeasuredCosts

MAX_FUSED_HEAD = 128
"""Dim of a head up to which cuDNN's attention is chosen."""
KNOWN = (
    "model_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "gated", "vocab_size",
    "window", "num_sequences", "recompute",
)  # fmt: skip
"""What a plan knows of the conditions of measured costs (`pipeline.conditions`)."""
WIDE = 4
"""Bytes of an accumulated number."""


@dataclass(frozen=True)
class Draft:
    """What a run would be; nothing of it exists.

    Attributes:
      config: settings; `mesh.pipe` is a number.
      shape: of the model.
      platform: `gpu` or `cpu`.
      fused: whether attention is a kernel that keeps its scores to itself.
      itemsize: bytes of an activation: 2 in bfloat16, 4 in float32.

    Example:
      >>> from seq1f1b_jax.config import Config, MeshConfig, ModelConfig, resolve_model
      >>> from seq1f1b_jax.plan.model.shape import shape_of
      >>> config = Config(mesh=MeshConfig(pipe=2))
      >>> shape = shape_of(resolve_model(ModelConfig(vocab_size=256)))
      >>> draft = Draft(config, shape, platform="cpu", fused=False, itemsize=4)
      >>> draft.layers_per_stage, draft.lengths
      ((4, 4), (384, 256, 256, 128))
    """

    config: Config
    shape: ModelShape
    platform: str
    fused: bool
    itemsize: int

    @property
    def num_ranks(self) -> int:
        """Ranks of a pipeline."""
        assert self.config.mesh.pipe is not None
        return self.config.mesh.pipe

    @property
    def num_tensor(self) -> int:
        """Devices that share a stage."""
        return self.config.mesh.tensor

    @property
    def num_devices(self) -> int:
        """Of the whole mesh."""
        return self.config.mesh.data * self.num_ranks * self.num_tensor

    @property
    def num_sequences(self) -> int:
        """Of a microbatch, in one pipeline."""
        return self.config.data.microbatch_size // self.config.mesh.data

    @property
    def tokens_per_step(self) -> int:
        """Of all pipelines."""
        data = self.config.data
        return self.config.schedule.num_microbatches * data.microbatch_size * data.seq_len

    @property
    def token_parts(self) -> int:
        """Devices that share the tokens of the residual stream."""
        return self.num_tensor if self.config.mesh.sequence_parallel else 1

    @cached_property
    def plan(self) -> Plan:
        """The order of work."""
        return choose_plan(self.config.schedule, num_ranks=self.num_ranks)[0]

    @cached_property
    def outline(self) -> Plan:
        """The plan with few microbatches: enough for what does not depend on their number."""
        schedule = self.config.schedule
        few = min(schedule.num_microbatches, self.num_ranks)
        if schedule.plan is not None or few == schedule.num_microbatches:
            return self.plan
        return choose_plan(replace(schedule, num_microbatches=few), num_ranks=self.num_ranks)[0]

    @property
    def stages_per_rank(self) -> int:
        """Stages of each rank."""
        return self.outline.stages_per_rank

    @cached_property
    def layers_per_stage(self) -> tuple[int, ...]:
        """Layers of every stage along the model."""
        given = self.config.mesh.layers_per_stage
        if given == "balanced":
            cut = partial(chunk_lengths, self.config, plan=self.plan, tile=self.block)
            slowdown = self.config.schedule.max_slowdown
            return balanced_layers(self.plan, self._cost_of(self.shape.num_layers), cut,
                max_slowdown=slowdown)
        return given or even_layers(self.shape.num_layers, self.outline.num_stages)

    @property
    def max_layers(self) -> int:
        """Of the largest stage."""
        return max(self.layers_per_stage)

    @cached_property
    def cost(self) -> StageCost:
        """FLOPs of a chunk on each stage, all devices of `tensor` together."""
        return self._cost_of(*self.layers_per_stage)

    def _cost_of(self, *layers_per_stage: int) -> StageCost:
        return StageCost.of(
            self.shape, layers_per_stage, num_sequences=self.num_sequences,
            recompute=self.config.executor.recompute, windows=self.shape.windows,
            num_layer_params=self.shape.num_layers * self.shape.active_weights,
            trained=trained_weights(self.shape),
        )

    @property
    def block(self) -> int | None:
        """Tokens of attention's tile, as `AttentionBackend.block`."""
        if self.config.executor.attention == "xla_dense":
            return None
        return 0 if self.fused else block_of(self.platform)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each chunk."""
        schedule = self.config.schedule
        exact = schedule.max_slowdown or schedule.partition == "measured"
        return chunk_lengths(
            self.config, self.cost, plan=self.plan if exact else self.outline, tile=self.block,
            measured=self.measured,
        )

    @cached_property
    def measured(self) -> MeasuredCosts | None:
        """The seconds of the file that `schedule.costs` names.

        Raises:
          ValueError: it holds none, or those of another model or policy.
        """
        name = self.config.schedule.costs
        if name is None:
            return None
        table, cost = CostTable.load(name), self.cost
        known = {key: getattr(cost, key) for key in KNOWN} | {"tensor": self.num_tensor}
        known |= trained_conditions(cost.trained)
        here = {**table.conditions, **known}  # the device is not asked: there may be none
        table.check(here, name=name)
        return MeasuredCosts(table, cost)

    @cached_property
    def table(self) -> TickTable:
        """The lowered plan."""
        return lowered(self.plan, self.lengths)

    @cached_property
    def is_unrolled(self) -> bool:
        """Whether every layer has its own part of the program."""
        return is_unrolled(
            self.config.executor.unroll, max_layers=self.max_layers,
            num_chunks=self.outline.num_chunks, stages_per_rank=self.stages_per_rank,
            platform=self.platform,
        )

    @property
    def num_host_layers(self) -> int:
        """Layers of the largest stage whose waiting values are in host memory."""
        offload = self.config.executor.offload
        return 0 if offload == "auto" else offloaded_layers(offload, self.max_layers)

    @property
    def first_tokens(self) -> Tokens:
        """Those of the first chunk."""
        return Tokens(
            self.num_sequences, self.lengths[0], self.token_parts,
            groups=2 if self.config.executor.halves else 1,
            itemsize=self.itemsize, wide=max(WIDE, self.itemsize),
        )

    @property
    def spread(self) -> Spread:
        """The mesh, and the layers on it."""
        mesh, rank_layers = self.config.mesh, self.stages_per_rank * self.max_layers
        return Spread(mesh.data, self.num_ranks, mesh.tensor, rank_layers)

    @cached_property
    def state(self) -> StateBytes:
        """Parameters and optimizer of one device."""
        return state_bytes(self.shape, self.spread, self.config.optimizer)

    @cached_property
    def sizes(self) -> StepSizes:
        """What the bytes of a step follow from, beside the lowered plan."""
        shape, executor, tensor = self.shape, self.config.executor, self.num_tensor
        tokens, policy, splits = self.first_tokens, executor.recompute, self.outline.splits
        return StepSizes(
            platform=self.platform,
            lengths=self.lengths,
            num_ranks=self.num_ranks,
            stages_per_rank=self.stages_per_rank,
            splits=splits,
            late=self.outline.exchange.late,
            layers_per_stage=self.layers_per_stage,
            num_host_layers=self.num_host_layers,
            num_sequences=self.num_sequences,
            token_parts=self.token_parts,
            model_dim=shape.model_dim,
            num_heads=shape.num_heads // tensor,
            num_kv_heads=shape.kv_heads(tensor),
            head_dim=shape.head_dim,
            vocab_part=self.spread.part_rows(shape.vocab_size),
            itemsize=self.itemsize,
            wide=tokens.wide,
            residuals=residuals(shape, policy, tensor, tokens),
            deferred=deferred(shape, policy, tensor, tokens) if splits else (),
            layer_values=residuals(shape, "none", tensor, tokens),
            scores=_scores(self.lengths, self.block),
            layer_weights=shape.layer_weights(tensor),
            expert_weights=shape.expert_weights // tensor,
            small_weights=shape.norm_weights,
            table_values=_table_rows(self) * shape.model_dim,
            gradients=num_gradients(shape, self.spread),
            trains_head=shape.trains_head,
            unrolled=self.is_unrolled,
            cast=self.itemsize < WIDE,
            loss_block=executor.loss_block,
        )


def _table_rows(draft: Draft) -> int:
    """Rows of the tables that a device gathers: one of the vocabulary, where ranks are several."""
    shape = draft.shape
    one = shape.tied or draft.num_ranks > 1
    rows = [shape.vocab_size] * (1 if one else 2)
    rows += [shape.learned_positions] * bool(shape.learned_positions)
    return sum(map(draft.spread.part_rows, rows))


@lru_cache(maxsize=1024)
def _scores(lengths: tuple[int, ...], block: int | None) -> tuple[Scores, ...]:
    offsets = (sum(lengths[:chunk]) for chunk in range(len(lengths)))
    return tuple(
        Scores(*block_scores(length, offset, block=block))
        for length, offset in zip(lengths, offsets, strict=True)
    )


def draft_of(config: Config, hardware: Hardware) -> Draft:
    """The draft of a configuration on a device.

    Args:
      config: settings; the model is filled in (`fill_model`), and `mesh.pipe` is a number.
      hardware: the device.

    Raises:
      UserError: a model that cannot be counted.
      ValueError: sizes that do not fit together.
    """
    shape = shape_of(config.model, config.lora, config.trainable)
    executor = config.executor
    wanted = executor.compute_dtype
    narrow = hardware.has_bfloat16 if wanted == "auto" else wanted == "bfloat16"
    fused = executor.attention == "cudnn" or (
        executor.attention == "auto" and hardware.has_cudnn and narrow
        and shape.head_dim <= MAX_FUSED_HEAD and config.data.packing == "windows"
        and config.model.attention_softcap is None
    )
    return Draft(config, shape, hardware.kind, fused, itemsize=2 if narrow else 4)
