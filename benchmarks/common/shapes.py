"""The models of the paper on its machines, and a million tokens on ours; their steps for H100s."""

import math
from dataclasses import dataclass
from functools import partial

GPUS_PER_HOST = 8
MICROBATCHES = 16


@dataclass(frozen=True)
class Shape:
    """A model on machines.

    Attributes:
      preset, family: as `build_stage`.
      seq_len: tokens of a sequence.
      pipe: ranks.
      tensor: devices that share a layer, with sequence-parallel norms.
      num_chunks: 1 is 1F1B.
      recompute, offload: as `ExecutorOptions`.
      schedule: its name.
      num_microbatches: of one sequence each.
    """

    preset: str
    seq_len: int
    pipe: int
    tensor: int
    num_chunks: int
    family: str = "gpt"
    recompute: str = "selective"
    offload: float = 0.0
    schedule: str = "seq1f1b"
    num_microbatches: int = MICROBATCHES

    @property
    def axes(self) -> dict[str, int]:
        """The mesh, axes of one device left out, `pipe` kept."""
        return {"pipe": self.pipe, **({"tensor": self.tensor} if self.tensor > 1 else {})}


def _rows(preset: str, seq_len: int, pipe: int, tensor: int) -> dict[str, Shape]:
    """Seq1F1B with four chunks, and 1F1B."""
    name = f"{preset}_{seq_len}"
    return {
        f"{name}_seq1f1b_selective": Shape(preset, seq_len, pipe, tensor, 4),
        f"{name}_seq1f1b_none": Shape(preset, seq_len, pipe, tensor, 4, recompute="none"),
        f"{name}_1f1b_none": Shape(preset, seq_len, pipe, tensor, 1, recompute="none"),
    }


SHAPES: dict[str, Shape] = {
    **_rows("30b", 65536, 8, 8),
    "30b_65536_seq1f1b_offload": Shape("30b", 65536, 8, 8, 4, offload=0.75),
    "7b_1048576_seq1f1b": Shape(
        "7b", 1 << 20, 8, 8, 16, family="llama", recompute="matmuls", offload=0.75
    ),
    "8b_1048576_8gpus": Shape(
        "8b", 1 << 20, 1, 8, 24, family="llama", recompute="matmuls", offload=31 / 32,
        num_microbatches=2,
    ),
    **_rows("2.7b", 32768, 8, 1),
    **_rows("7b", 32768, 4, 8),
    **_rows("7b", 65536, 4, 8),
    **_rows("7b", 131072, 4, 8),
    **_rows("13b", 32768, 4, 8),
}


def build(shape: Shape, *, mesh=None):
    """The pipelined step of a shape; for H100s without a device, unless a mesh is given."""
    import jax.numpy as jnp

    from benchmarks.common.cases import Size, pipelined
    from seq1f1b_jax.models import build_stage

    stage = build_stage(shape.family, preset=shape.preset, max_positions=shape.seq_len)
    lengths = chunk_lengths(shape, stage)
    size = Size(
        shape.pipe, shape.num_microbatches, shape.num_chunks, shape.seq_len,
        recompute=shape.recompute, attention="xla_blockwise" if mesh else "cudnn",
        compute_dtype=jnp.bfloat16, schedule=shape.schedule, sequence_parallel=shape.tensor > 1,
        offload=shape.offload,
    )
    return pipelined(stage, size, mesh=mesh or h100s(shape.axes), lengths=lengths)


def plan_of(shape: Shape):
    """The schedule at the sizes of a shape."""
    from seq1f1b_jax.schedule import make_plan

    return make_plan(
        shape.schedule, num_ranks=shape.pipe, num_microbatches=shape.num_microbatches,
        num_chunks=shape.num_chunks,
    )


def cost_of(shape: Shape, stage):
    """What a chunk costs."""
    from seq1f1b_jax.schedule import StageCost

    layers = (-(-stage.num_layers // shape.pipe),) * shape.pipe
    return StageCost.of(stage, layers, recompute=shape.recompute)


def chunk_lengths(shape: Shape, stage) -> tuple[int, ...]:
    """Tokens of each chunk: balanced, in multiples of 128, as `train.py` cuts them."""
    from seq1f1b_jax.schedule import balanced_lengths
    from seq1f1b_jax.schedule.simulation.lengths import frugal_lengths

    cut = partial(balanced_lengths, shape.seq_len, shape.num_chunks, block=128)
    plan, cost = plan_of(shape), cost_of(shape, stage)
    return frugal_lengths(plan, cost, cut, seq_len=shape.seq_len, max_slowdown=0.0)


def h100s(axes: dict[str, int]):
    """H100s in hosts of eight; the innermost axis is inside a host."""
    from benchmarks.aot import h100_mesh

    num_hosts = -(-math.prod(axes.values()) // GPUS_PER_HOST)
    return h100_mesh(tuple(axes.values()), tuple(axes), num_hosts=num_hosts)
