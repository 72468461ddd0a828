"""Bytes and collectives of the published sizes, compiled for H100s that need not be present.

    python -m benchmarks.published_sizes                             all rows, 1 to 5 minutes each
    python -m benchmarks.published_sizes --only 30b_65536_seq1f1b_selective 30b_65536_1f1b_none
    python -m benchmarks.published_sizes --list
    python -m benchmarks.published_sizes --only 2.7b_32768_seq1f1b_none --schedule seq-zb-h1
    python -m benchmarks.published_sizes --predict                   without compiling: seconds

Compiled, never run: the whole training step, update and all, as `train.py` compiles it on H100s
(bfloat16, cuDNN attention, microbatches of one sequence, balanced chunks; 16 microbatches unless
the row says otherwise). `held` is what a device holds at once: arguments + temporaries + outputs -
what outputs share with arguments; `host` the host memory of a device; `tokens/s per GPU` an
estimate from matmuls and attention alone (`benchmarks.h100.roofline`), a tenth added. Needs the
extra `aot`. There is no autotuning, so scratch memory of matmuls is not representative. With
`--out` rows are added to those already in the file.
"""

import argparse
import json
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.common.shapes import SHAPES, Shape, build

GB = 1e9
DEVICE_GB = 80
OVERHEAD = 1.11
"""Time of a layer over its matmuls and attention, by `benchmarks.h100_program` (7b and 30b)."""


def main(arguments=None) -> int:
    """Compile the rows and print their tables; the exit status is 0."""
    options = _parser().parse_args(arguments)
    if options.predict and options.out:
        _parser().error("--predict compiles nothing, so it has no rows for --out; leave one out")
    if options.list:
        print("\n".join(SHAPES))
        return 0
    os.environ["JAX_PLATFORMS"] = "cpu"  # read when JAX is first imported
    if options.cpu:
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=64"
    measured = _known(options.out)
    for name, shape in _chosen(options).items():
        measured[name] = predict(shape) if options.predict else measure(shape, cpu=options.cpu)
        _show({name: measured[name]})
    from benchmarks.common.report import finish

    _show(measured)
    values: dict[str, Any] = {f"{name}_gb": row["held"] for name, row in measured.items()}
    values |= {f"{name}_host_gb": row["host"] for name, row in measured.items() if row["host"]}
    errors = [row["error"] for row in measured.values() if "error" in row]
    if errors:
        values["max_error"] = max(errors)
        exposed = [row["exposed copies"] for row in measured.values()]
        values["offload_copies_exposed"] = sum(exposed)
    on_cpu = {n: row["cpu held"] for n, row in measured.items() if "cpu held" in row}
    values |= {f"{name}_cpu_gb": held for name, held in on_cpu.items()}
    finish({**values, "rows": measured}, path=options.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    from seq1f1b_jax.schedule.simulation.flops import RECOMPUTE_POLICIES

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published_sizes", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(SHAPES), metavar="ROW")
    parser.add_argument("--predict", action="store_true", help="compile nothing")
    parser.add_argument("--list", action="store_true", help="list the rows and exit")
    parser.add_argument("--schedule", help="another schedule with chunks")
    parser.add_argument("--recompute", choices=RECOMPUTE_POLICIES)
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
    """One row: bytes of a device, their parts, the prediction, and the collectives."""
    from benchmarks.common.placement import count_collectives, rows
    from benchmarks.h100.hlo import read_program
    from benchmarks.h100.overlap import host_copies

    step = build(shape)
    state = abstract_state(step)
    compiled, seconds = compile_train_step(step, state)
    memory = compiled.memory_analysis()
    (held, peak), host = held_bytes(memory), memory.host_temp_size_in_bytes
    row = predicted(step, state, shape)
    pairs = [(row["held"], held / GB), (row["host"], host / GB)]
    program = read_program(compiled.as_text())
    row |= {
        "predicted": row["held"], "held": _gb(held), "of 80 GB": round(held / GB / DEVICE_GB, 3),
        "host": _gb(host), "peak": _gb(peak), "temporaries": _gb(memory.temp_size_in_bytes),
        "error": round(max(abs(p / q - 1) for p, q in pairs if q), 4),
        "exposed copies": sum(c.is_exposed for c in host_copies(program, program.entry)),
        "seconds": round(seconds, 1),
    }
    if cpu:
        row["cpu held"] = _gb(held_on_cpu(shape))
    row["collectives"] = rows(count_collectives(compiled.as_text(), shape.axes))
    return row


def predict(shape: Shape) -> dict[str, Any]:
    """A row without what only a compiled program shows."""
    step = build(shape)
    return predicted(step, abstract_state(step), shape) | {"collectives": []}


def predicted(step, state, shape: Shape) -> dict[str, Any]:
    """Sizes of a row, and the bytes that are predicted."""
    from benchmarks.h100.roofline import step_seconds
    from seq1f1b_jax.pipeline.memory import predict_memory
    from seq1f1b_jax.schedule import StageCost

    params, moments = local_bytes(state.params), local_bytes(state.optimizer)
    memory = predict_memory(step.program(1))
    lengths, num_devices = step.table.chunk_lengths, math.prod(shape.axes.values())
    cost = StageCost.of(
        step.stage, step.layout.layers_per_stage, recompute=shape.recompute
    )
    seconds = OVERHEAD * step_seconds(step.plan, cost, lengths, num_tensor=shape.tensor)
    tokens = shape.num_microbatches * shape.seq_len
    held = params + moments + memory.total
    return {
        "devices": num_devices, **shape.axes, "C": shape.num_chunks,
        "lengths": "+".join(map(str, lengths)), "recompute": shape.recompute,
        "layers on the host": f"{step.num_host_layers} of {step.layout.max_layers}",
        "held": _gb(held), "host": _gb(memory.host), "parameters": _gb(params),
        "moments": _gb(moments), **{name: _gb(size) for name, size in memory.terms().items()},
        "tokens/s per GPU": round(tokens / seconds / num_devices),
    }


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

    from seq1f1b_jax.cli.xla_presets import flags_of_executor
    from seq1f1b_jax.training.step import make_train_step

    shape = (step.table.num_microbatches, 1, sum(step.table.chunk_lengths))
    whole = NamedSharding(step.mesh, PartitionSpec())
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=whole)
    train_step = make_train_step(step, _optimizer(), learning_rate=lambda count: 1e-3)
    flags = flags_of_executor(halves=False, offload=step.num_host_layers > 0)
    options = {name: int(value) for name, value in flags.items()}
    began = time.perf_counter()
    compiled = train_step.lower(state, tokens, tokens).compile(options)
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


def _known(path: str | None) -> dict[str, Any]:
    """Rows of an earlier run; those of earlier versions, which lack figures, are left out."""
    if path is None or not Path(path).is_file():
        return {}
    rows = json.loads(Path(path).read_text(encoding="utf-8"))["rows"]
    return {name: row for name, row in rows.items() if "exposed copies" in row}


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
