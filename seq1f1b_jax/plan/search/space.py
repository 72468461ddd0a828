"""Which configurations a search compares: meshes, schedules, chunks, recomputation, offload."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from seq1f1b_jax.config import Config
from seq1f1b_jax.plan.hardware import Hardware
from seq1f1b_jax.plan.model.shape import ModelShape

LEAST_CHUNK = 512
"""Tokens of an average chunk; kernels of shorter ones are far from a device's peak."""


class Core(NamedTuple):
    """What tells found configurations apart: of each core only the best is shown.

    Attributes:
      data, pipe, tensor: the mesh.
      schedule: its name.
      stages_per_rank: stages of a rank.
      num_chunks: slices of each sequence.
      num_sequences: of a microbatch, in one pipeline.
    """

    data: int
    pipe: int
    tensor: int
    schedule: str
    stages_per_rank: int
    num_chunks: int
    num_sequences: int


@dataclass(frozen=True)
class Space:
    """The values that are tried; whatever does not fit the model or the mesh is left out.

    Attributes:
      chunks: of a sequence.
      schedules: name and stages per rank. Those that are never faster, or never smaller, at equal
        costs (`terapipe`, `seq1f1b-lockstep`) are not tried.
      recompute: policies.
      offload: fractions of a stage's layers.
      partitions: of a sequence.
      layers: how they are spread over stages: None, as evenly as they go; `balanced` is tried with
        what was found.
      sequences: of a microbatch, in one pipeline.
      max_tensor: devices that share a stage; None: those of a host.
      min_pipe, max_pipe: ranks; None: as many as devices.
    """

    chunks: Sequence[int] = (1, 2, 4, 8, 16, 32)
    schedules: Sequence[tuple[str, int]] = (
        ("seq1f1b", 1), ("seq1f1b-i", 2), ("seq1f1b-i", 4), ("seq-zb-h1", 1),
    )
    recompute: Sequence[str] = ("none", "selective", "matmuls", "full")
    offload: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
    partitions: Sequence[str] = ("balanced", "even")
    layers: Sequence[Literal["balanced"] | None] = (None, "balanced")
    sequences: Sequence[int] = (1, 2, 4, 8)
    max_tensor: int | None = None
    min_pipe: int = 1
    max_pipe: int | None = None

    def cores(
        self, config: Config, shape: ModelShape, hardware: Hardware, num_devices: int
    ) -> Iterator[Core]:
        """Cores of a model on so many devices, with as many sequences in a step as given."""
        per_step = config.schedule.num_microbatches * config.data.microbatch_size
        most = min(self.max_tensor or hardware.devices_per_host, num_devices)
        for tensor in _divisors(num_devices):
            if tensor > most or not _shares(shape, config.data.seq_len, tensor):
                continue
            for pipe in _divisors(num_devices // tensor):
                data = num_devices // tensor // pipe
                if not self.min_pipe <= pipe <= (self.max_pipe or num_devices) or per_step % data:
                    continue
                for count in self.sequences:
                    if per_step // data % count == 0:
                        mesh = (data, pipe, tensor)
                        yield from self._orders(config, shape, mesh, count)

    def _orders(
        self, config: Config, shape: ModelShape, mesh: tuple[int, int, int], count: int
    ) -> Iterator[Core]:
        pipe = mesh[1]
        for name, stages in self.schedules:
            if pipe * stages > shape.num_layers or (pipe == 1 and (name, stages) != FIRST):
                continue
            for chunks in self.chunks:
                if chunks > 1 and config.data.seq_len < chunks * LEAST_CHUNK:
                    continue
                yield Core(*mesh, name, stages, chunks, count)

    def variants(self, config: Config, core: Core, hardware: Hardware) -> Iterator[Config]:
        """Configurations of a core; those that differ in offload alone follow each other."""
        offload = self.offload if hardware.kind == "gpu" else (0.0,)
        partitions = self.partitions if core.num_chunks > 1 and core.pipe > 1 else ("balanced",)
        base = with_core(config, core)
        for recompute in self.recompute:
            for partition in partitions:
                for fraction in offload:
                    yield replace(
                        base,
                        schedule=replace(base.schedule, partition=partition),
                        executor=replace(base.executor, recompute=recompute, offload=fraction),
                    )


FIRST = ("seq1f1b", 1)
"""The one schedule of one rank: there is nothing to interleave."""


def with_core(config: Config, core: Core) -> Config:
    """A configuration on another mesh and with another order of work, as many sequences a step."""
    per_step = config.schedule.num_microbatches * config.data.microbatch_size
    count = core.data * core.num_sequences
    return replace(
        config,
        mesh=replace(
            config.mesh, data=core.data, pipe=core.pipe, tensor=core.tensor,
            sequence_parallel=core.tensor > 1, layers_per_stage=None,
        ),
        data=replace(config.data, microbatch_size=count),
        schedule=replace(
            config.schedule, name=core.schedule, plan=None, costs=None,
            num_microbatches=per_step // count,
            num_chunks=core.num_chunks, chunk_lengths=None, extra_warmup=0, short_warmup=False,
            stages_per_rank=core.stages_per_rank if core.stages_per_rank > 1 else None,
        ),
        executor=replace(config.executor, halves=config.executor.halves and core.tensor > 1),
    )


def _shares(shape: ModelShape, seq_len: int, tensor: int) -> bool:
    """Whether so many devices can share a stage, and a sequence."""
    heads = shape.num_kv_heads % tensor == 0 or tensor % shape.num_kv_heads == 0
    even = shape.num_heads % tensor == 0 and shape.mlp_dim % tensor == 0
    return heads and even and seq_len % (128 * tensor) == 0 if tensor > 1 else True


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
