"""Settings of the pipeline: its devices, the order of work, how a unit is computed, the compiler.

Data only, standard library only; see `sections`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class MeshConfig:
    """The devices, and how layers are spread over them.

    Attributes:
      data: pipelines that share the sequences of every microbatch, and the optimizer's state.
      pipe: ranks of a pipeline; None: as many as the devices allow.
      tensor: devices that share every stage, its heads, its MLPs and the vocabulary; they exchange
        activations in every layer, so they belong in one host.
      sequence_parallel: whether these devices share the tokens too between the parts of a layer
        that they share: less memory, shorter messages between stages, as much exchanged.
      platform: `cpu` or `gpu`; None: the accelerator where there is one, else the CPU.
      virtual_devices: CPU devices to simulate where the platform is the CPU; None: data * pipe *
        tensor, four ranks where pipe is None.
      layers_per_stage: layers of each stage, first to last; `balanced`: those with which a step
        is predicted to be shortest, fewer beside the head; None: as even as possible.
    """

    data: int = 1
    pipe: int | None = None
    tensor: int = 1
    sequence_parallel: bool = False
    platform: Literal["cpu", "gpu"] | None = None
    virtual_devices: int | None = None
    layers_per_stage: tuple[int, ...] | Literal["balanced"] | None = None


@dataclass(frozen=True)
class ScheduleConfig:
    """The order of work in one step.

    Attributes:
      name: registry key of the schedule, such as `seq1f1b`, `seq1f1b-i` or `seq-zb-h1`;
        `python -m seq1f1b_jax.explore` lists them.
      plan: file of a custom plan, a grid as CSV or text; overrides name. Sizes must be those
        of the run; stages are the plan's.
      num_microbatches: sequence batches per step; their gradients are accumulated.
      num_chunks: slices of each sequence.
      partition: `balanced` gives chunks of equal computation, on one rank, where nobody waits, of
        equal length; `even` chunks of equal length; `measured` those of the shortest step by the
        seconds in `costs`, simulated.
      costs: file of measured seconds, for `measured`; `python -m seq1f1b_jax.plan profile` with the
        settings of the run writes it.
      max_slowdown: by how much `balanced` and `measured` on several ranks may lengthen a step to
        save memory: 0.01 is 1 %. So may mesh.layers_per_stage=balanced.
      max_growth: by how much `measured` may exceed the memory of the other two: 0.05 is 5 %.
      chunk_lengths: tokens of each chunk, first to last; overrides partition.
      documents: whose cost `balanced` counts where sequences are packed: `corpus`, their mean over
        the corpus; `batch`, each step's own, compiling for every new cut; `ignore`, none.
      block: lengths are multiples of this many tokens where the sequence allows.
      stages_per_rank: stages per rank, for interleaved schedules; None: 2 there, else 1.
      extra_warmup: more forwards on every rank before its first backward; each takes the memory of
        a unit, and helps little (see docs/design/schedules.md).
      short_warmup: for interleaved schedules: fewer units in flight, and more waiting.
    """

    name: str = "seq1f1b"
    plan: str | None = None
    num_microbatches: int = 8
    num_chunks: int = 4
    partition: Literal["balanced", "even", "measured"] = "balanced"
    costs: str | None = None
    max_slowdown: float = 0.0
    max_growth: float = 0.0
    chunk_lengths: tuple[int, ...] | None = None
    documents: Literal["ignore", "corpus", "batch"] = "corpus"
    block: int = 128
    stages_per_rank: int | None = None
    extra_warmup: int = 0
    short_warmup: bool = False


@dataclass(frozen=True)
class ExecutorConfig:
    """How a unit of work is computed.

    Attributes:
      attention: `auto`, or a backend by name: `xla_blockwise`, `xla_dense`, `cudnn`; auto: cudnn
        on GPUs that have it and compute the same as xla_dense on a small chunk, else xla_blockwise.
        `package.module:function`: your own (docs/design/attention.md).
      recompute: what the backward recomputes: `none` nothing, `selective` elementwise operations,
        `matmuls` all but attention, `full` whole layers from their inputs.
      unroll: the most layers of a stage that are unrolled, so that weight gradients are added where
        they are computed; more of them, or 0: a loop. `auto`: 0 on CPUs, on GPUs as many as compile
        in a few minutes (docs/design/gpu_program.md).
      offload: part of a stage's layers, 0 to 1, whose activations wait in the host's memory for the
        backward; `auto`: as few layers as fit the device (docs/design/offload.md).
      check_memory: whether to refuse a step that is predicted to need more memory than there is.
      loss_block: tokens whose logits exist at one time in the loss; None: as many as take no more
        memory than the layers, at least 1024.
      compute_dtype: `bfloat16`, `float32`, or `auto`: bfloat16 where the device has it.
      halves: with mesh.sequence_parallel, whether a layer works on two halves of a chunk's tokens,
        so that the collectives of one run beside the matmuls of the other.
    """

    attention: str = "auto"
    recompute: Literal["none", "selective", "matmuls", "full"] = "selective"
    unroll: int | Literal["auto"] = "auto"
    offload: float | Literal["auto"] = 0.0
    check_memory: bool = True
    loss_block: int | None = None
    compute_dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    halves: bool = False


@dataclass(frozen=True)
class XlaConfig:
    """The compiler.

    Attributes:
      preset: flags to set, on GPUs only and as far as this version of XLA knows them: `overlap`
        schedules to hide communication, `memory` for the least memory, `command_buffers` leaves
        loops to the device instead of the host, `deterministic` gives the same bits in every run;
        `default` sets none. Those in XLA_FLAGS win (docs/design/xla.md).
    """

    preset: Literal["default", "overlap", "memory", "command_buffers", "deterministic"] = "default"


def costs_problems(schedule: ScheduleConfig) -> Iterator[str]:
    """What is wrong with how measured costs are named, one line each.

    Example:
      >>> list(costs_problems(ScheduleConfig(partition="measured", costs="costs.json")))
      []
    """
    if schedule.partition == "measured" and schedule.costs is None:
        yield (
            "schedule.partition=measured needs the seconds of the run's actions; measure them with "
            "python -m seq1f1b_jax.plan profile --to costs.json and the settings of the run, then "
            "use --schedule.costs costs.json"
        )
    if schedule.partition != "measured" and schedule.costs is not None:
        yield (
            f"schedule.costs={schedule.costs} has no effect with schedule.partition="
            f"{schedule.partition}; use --schedule.partition measured, or leave it out"
        )
