"""Bytes and collectives of the published sizes, compiled for H100s that need not be present.

    python -m benchmarks.published_sizes                             all rows, 1 to 2 minutes each
    python -m benchmarks.published_sizes --only 30b_65536_seq1f1b 30b_65536_1f1b
    python -m benchmarks.published_sizes --list
    python -m benchmarks.published_sizes --only 2.7b_32768_seq1f1b --schedule seq-zb-h1

Compiled, never run: the whole training step, update and all, as `train.py` compiles it (bfloat16,
M=16, microbatches of one sequence, balanced chunks, recompute `none` unless the row says
otherwise). `held` is what a device holds at once: arguments + temporaries + outputs - what outputs
share with arguments. Needs the extra `aot`. There is no autotuning, so scratch memory of matmuls is
not representative. With `--out` rows are added to those already in the file.
"""

import argparse
import json
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

GB = 1e9
DEVICE_GB = 80
GPUS_PER_HOST = 8
MICROBATCHES = 16


@dataclass(frozen=True)
class Shape:
    """A published model on published machines.

    Attributes:
      seq_len: tokens of a sequence.
      pipe: ranks.
      tensor: ranks that share a layer, with sequence-parallel norms.
      num_chunks: 1 is 1F1B.
    """

    preset: str
    seq_len: int
    pipe: int
    tensor: int
    num_chunks: int
    family: str = "gpt"
    recompute: str = "none"
    schedule: str = "seq1f1b"

    @property
    def axes(self) -> dict[str, int]:
        """The mesh, axes of one device left out, `pipe` kept."""
        return {"pipe": self.pipe, **({"tensor": self.tensor} if self.tensor > 1 else {})}


def _both(preset: str, seq_len: int, pipe: int, tensor: int) -> dict[str, Shape]:
    """Seq1F1B with four chunks, and 1F1B."""
    name = f"{preset}_{seq_len}"
    return {
        f"{name}_seq1f1b": Shape(preset, seq_len, pipe, tensor, 4),
        f"{name}_1f1b": Shape(preset, seq_len, pipe, tensor, 1),
    }


SHAPES: dict[str, Shape] = {
    **_both("2.7b", 32768, 8, 1),
    **_both("7b", 32768, 4, 8),
    **_both("7b", 65536, 4, 8),
    **_both("7b", 131072, 4, 8),
    **_both("13b", 32768, 4, 8),
    **_both("30b", 65536, 8, 8),
    "7b_1048576_seq1f1b": Shape("7b", 1 << 20, 8, 8, 16, family="llama", recompute="full"),
}
"""The last one has rotary positions: a learned vector for each of a million would be 17 GB."""


def main(arguments=None) -> int:
    """Compile the rows and print their tables; the exit status is 0."""
    options = _parser().parse_args(arguments)
    if options.list:
        print("\n".join(SHAPES))
        return 0
    os.environ["JAX_PLATFORMS"] = "cpu"  # read when JAX is first imported
    if options.cpu:
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=64"
    measured = _known(options.out)
    for name, shape in _chosen(options).items():
        measured[name] = measure(shape, cpu=options.cpu)
        _show({name: measured[name]})
    from benchmarks.common.report import finish

    _show(measured)
    values = {f"{name}_gb": row["held"] for name, row in measured.items()}
    on_cpu = {n: row["cpu held"] for n, row in measured.items() if "cpu held" in row}
    values |= {f"{name}_cpu_gb": held for name, held in on_cpu.items()}
    finish({**values, "rows": measured}, path=options.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published_sizes", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(SHAPES), metavar="ROW")
    parser.add_argument("--list", action="store_true", help="list the rows and exit")
    parser.add_argument("--schedule", help="another schedule with chunks")
    parser.add_argument("--recompute", choices=["none", "selective", "full"])
    parser.add_argument("--chunks", type=int, help="chunks of a sequence")
    parser.add_argument("--cpu", action="store_true", help="compile for virtual CPU devices too")
    parser.add_argument("--out", help="JSON file, such as benchmarks/results/published_sizes.json")
    return parser


def _chosen(options) -> dict[str, Shape]:
    """The requested rows, under a new name if an option changes them."""
    wanted = {
        "schedule": options.schedule, "recompute": options.recompute, "num_chunks": options.chunks,
    }
    changes = {name: value for name, value in wanted.items() if value is not None}
    suffix = "".join(f"_{value}" for value in changes.values())
    names = options.only or list(SHAPES)
    return {name + suffix: replace(SHAPES[name], **changes) for name in names}


def measure(shape: Shape, *, cpu: bool = False) -> dict[str, Any]:
    """One row: bytes per device, their parts, the prediction, and the collectives."""
    from benchmarks.common.placement import count_collectives, rows

    step = build(shape)
    state = abstract_state(step)
    compiled, seconds = compile_train_step(step, state)
    held, peak = held_bytes(compiled.memory_analysis())
    row = {
        "devices": math.prod(shape.axes.values()), **shape.axes, "C": shape.num_chunks,
        "lengths": "+".join(map(str, step.table.chunk_lengths)), "recompute": shape.recompute,
        "held": _gb(held), "of 80 GB": round(held / GB / DEVICE_GB, 3),
        "peak": _gb(peak), **parts(step, state, compiled.memory_analysis()),
        "seconds": round(seconds, 1),
    }
    if cpu:
        row["cpu held"] = _gb(held_on_cpu(shape))
    row["collectives"] = rows(count_collectives(compiled.as_text(), shape.axes))
    return row


def parts(step, state, memory) -> dict[str, Any]:
    """Bytes of parameters, optimizer state and temporaries, and the prediction of the latter."""
    from seq1f1b_jax.pipeline.memory import predict_memory

    params, moments = local_bytes(state.params), local_bytes(state.optimizer)
    prediction = predict_memory(step.program(1))
    return {
        "parameters": _gb(params), "moments": _gb(moments),
        "temporaries": _gb(memory.temp_size_in_bytes),
        "predicted": _gb(params + moments + prediction.total),
        "ring": _gb(prediction.ring), "cache": _gb(prediction.cache),
        "workspace": _gb(prediction.workspace), "accumulators": _gb(prediction.accumulators),
    }


def build(shape: Shape, *, mesh=None):
    """The pipelined step of a shape; for H100s without a device, unless a mesh is given."""
    import jax.numpy as jnp

    from benchmarks.common.cases import Size, pipelined
    from seq1f1b_jax.models import build_stage

    stage = build_stage(shape.family, preset=shape.preset, max_positions=shape.seq_len)
    lengths = chunk_lengths(shape, stage)
    size = Size(
        shape.pipe, MICROBATCHES, shape.num_chunks, shape.seq_len, recompute=shape.recompute,
        compute_dtype=jnp.bfloat16, schedule=shape.schedule, sequence_parallel=shape.tensor > 1,
    )
    return pipelined(stage, size, mesh=mesh or h100s(shape.axes), lengths=lengths)


def chunk_lengths(shape: Shape, stage) -> tuple[int, ...]:
    """Tokens of each chunk: balanced, in multiples of 128."""
    from seq1f1b_jax.schedule import StageCost, balanced_lengths

    layers = (-(-stage.num_layers // shape.pipe),) * shape.pipe
    cost = StageCost.of(stage, layers, recompute=shape.recompute)
    return balanced_lengths(shape.seq_len, shape.num_chunks, cost, block=128)


def abstract_state(step):
    """Shapes and shardings of the state that `train.py` donates to every step."""
    import jax
    import jax.numpy as jnp

    from seq1f1b_jax.training.step import TrainState, state_shardings

    params = step.abstract_params()
    moments = jax.eval_shape(_optimizer().init, params)
    state = TrainState(params, moments, jax.ShapeDtypeStruct((), jnp.int32))

    def shard(leaf, sharding):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(shard, state, state_shardings(state, step))


def compile_train_step(step, state) -> tuple[Any, float]:
    """The compiled training step, and the seconds that tracing and compiling took."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from seq1f1b_jax.training.step import make_train_step

    shape = (step.table.num_microbatches, 1, sum(step.table.chunk_lengths))
    whole = NamedSharding(step.mesh, PartitionSpec())
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=whole)
    train_step = make_train_step(step, _optimizer(), learning_rate=lambda count: 1e-3)
    began = time.perf_counter()
    compiled = train_step.lower(state, tokens, tokens).compile()
    return compiled, time.perf_counter() - began


def held_bytes(memory) -> tuple[int, int]:
    """Bytes on a device: the sum of the compiler's figures, and its own peak."""
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs
    return held, memory.peak_memory_in_bytes


def held_on_cpu(shape: Shape) -> int:
    """The same for the program of as many virtual CPU devices (`--cpu` makes them)."""
    import jax

    names, sizes = tuple(shape.axes), tuple(shape.axes.values())
    axis_types = (jax.sharding.AxisType.Auto,) * len(names)
    devices = jax.devices("cpu")[: math.prod(sizes)]
    mesh = jax.make_mesh(sizes, names, axis_types=axis_types, devices=devices)
    step = build(shape, mesh=mesh)
    compiled, _ = compile_train_step(step, abstract_state(step))
    return held_bytes(compiled.memory_analysis())[0]


def local_bytes(tree) -> int:
    """Bytes of one device's shard of a tree of arrays or shapes with shardings."""
    import jax

    def of(leaf) -> int:
        return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return sum(of(leaf) for leaf in jax.tree.leaves(tree))


def _gb(num_bytes: float) -> float:
    return round(num_bytes / GB, 2)


def _optimizer():
    from seq1f1b_jax.config import OptimizerConfig
    from seq1f1b_jax.training.optimizer import make_optimizer

    return make_optimizer(OptimizerConfig(), 1000)


def h100s(axes: dict[str, int]):
    """H100s in hosts of eight; the innermost axis is inside a host."""
    from benchmarks.aot import h100_mesh

    num_hosts = -(-math.prod(axes.values()) // GPUS_PER_HOST)
    return h100_mesh(tuple(axes.values()), tuple(axes), num_hosts=num_hosts)


def _known(path: str | None) -> dict[str, Any]:
    """Rows of an earlier run."""
    if path is None or not Path(path).is_file():
        return {}
    return json.loads(Path(path).read_text(encoding="utf-8"))["rows"]


def _show(measured: dict[str, dict[str, Any]]) -> None:
    from benchmarks.common.report import show

    bytes_of = [
        {"name": name, **{k: v for k, v in row.items() if k != "collectives"}}
        for name, row in measured.items()
    ]
    show("GB per device", bytes_of)
    show("collectives in the program, by location", [
        {"name": name, **line} for name, row in measured.items() for line in row["collectives"]
    ])


if __name__ == "__main__":
    raise SystemExit(main())
