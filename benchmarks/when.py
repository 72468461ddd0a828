"""When a sequence-chunked pipeline is the right choice: the planner's numbers, losses included.

    python -m benchmarks.when

For each shape the fastest configuration that fits, of five kinds, in tokens/s per device:

    seq1f1b        pipelines of sequence chunks
    1f1b           pipelines of whole sequences
    1f1b-i         the same, interleaved
    no pipeline    data and tensor parallelism of this package: one rank
    fsdp + cp      every weight, gradient and moment sharded over all devices and gathered layer by
                   layer; a sequence shared by `c` devices that pass keys and values around a ring

All but the last are searched with every recompute policy and with offload; the last one is a bound
in its favour: perfect balance, every collective that a layer's computation can hide is hidden, the
same kernels and shares as for the others. Nothing here was run.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from benchmarks.common import report
from seq1f1b_jax.config import (
    Config,
    DataConfig,
    ExecutorConfig,
    MeshConfig,
    ModelConfig,
    ScheduleConfig,
)
from seq1f1b_jax.plan.draft import Draft, draft_of
from seq1f1b_jax.plan.fill import fill_model
from seq1f1b_jax.plan.hardware import Hardware, find_hardware
from seq1f1b_jax.plan.model.kept import Tokens, residuals
from seq1f1b_jax.plan.model.shape import ModelShape
from seq1f1b_jax.plan.search.find import search
from seq1f1b_jax.plan.search.space import Space
from seq1f1b_jax.plan.work import work_of
from seq1f1b_jax.schedule import Op

ALL = Space(partitions=("balanced",), sequences=(1, 2, 4), min_pipe=2)
PIPELINES = {
    "seq1f1b": replace(ALL, chunks=(2, 4, 8, 16, 32)),
    "1f1b": replace(ALL, chunks=(1,), schedules=(("seq1f1b", 1),)),
    "1f1b-i": replace(ALL, chunks=(1,), schedules=(("seq1f1b-i", 2), ("seq1f1b-i", 4))),
    "no pipeline": replace(ALL, min_pipe=1, max_pipe=1),
}
STATE_BYTES = 16
"""Of a parameter, all sharded: float32 weight, gradient and two moments."""


class Shape(NamedTuple):
    """A model on devices, and the sequences of a step."""

    family: str
    preset: str
    seq_len: int
    devices: int
    sequences: int
    hardware: str = "h100-80g"


SHAPES = (
    Shape("llama", "8b", 8192, 8, 64),
    Shape("llama", "8b", 32768, 8, 16),
    Shape("llama", "8b", 131072, 8, 8),
    Shape("gpt", "2.7b", 32768, 8, 16, "a100-80g"),
    Shape("gpt", "7b", 131072, 32, 16, "a100-80g"),
    Shape("gpt", "30b", 65536, 64, 16),
    Shape("gpt", "30b", 65536, 64, 64),
    Shape("gpt", "30b", 65536, 16, 16),
    Shape("gpt", "7b", 65536, 64, 16, "l40s-48g"),
    Shape("llama", "8b", 1048576, 64, 4),
)


def main(arguments=None) -> int:
    """Search, print the table and the line of JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.when", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", help="file for the line of JSON")
    options = parser.parse_args(arguments)
    rows = []
    for shape in SHAPES:
        rows.append(row_of(shape))
        report.show("tokens/s per device, the best of each kind; chosen mesh", rows[-1:])
    report.show("tokens/s per device", [
        {k: v for k, v in row.items() if not k.endswith("choice")} for row in rows
    ])  # fmt: skip
    values = {"rows": rows, "wins": sum(row["best"] == "seq1f1b" for row in rows)}
    report.finish({**values, "shapes": len(rows)}, path=options.out)
    return 0


def row_of(shape: Shape) -> dict[str, Any]:
    """The best of every kind."""
    hardware, config = find_hardware(shape.hardware), _config(shape)
    row: dict[str, Any] = {
        "model": shape.preset, "tokens": shape.seq_len, "sequences": shape.sequences,
        "devices": f"{shape.devices} x {shape.hardware}",
    }
    speeds: dict[str, float] = {}
    for kind, space in PIPELINES.items():
        found = search(config, hardware, num_devices=shape.devices, space=space, top=1).best
        if found:
            speeds[kind] = found[0].estimate.tokens_per_second
            row[f"{kind} choice"] = _choice(found[0].estimate.draft)
    sharded = max(contexts(shape, hardware), key=lambda one: one.speed, default=None)
    if sharded:
        speeds["fsdp + cp"] = sharded.speed
        row["fsdp + cp choice"] = f"c={sharded.ring} {sharded.recompute}"
    row |= {kind: round(speed) for kind, speed in speeds.items()}
    return row | {"best": max(speeds, key=lambda kind: speeds[kind]) if speeds else "none"}


def _config(shape: Shape) -> Config:
    return fill_model(
        Config(
            model=ModelConfig(family=shape.family, preset=shape.preset), mesh=MeshConfig(pipe=1),
            schedule=ScheduleConfig(num_microbatches=shape.sequences),
            data=DataConfig(seq_len=shape.seq_len),
        )
    )


def _choice(draft: Draft) -> str:
    mesh, schedule, executor = draft.config.mesh, draft.config.schedule, draft.config.executor
    return (
        f"{mesh.data}x{mesh.pipe}x{mesh.tensor} {schedule.name} C={schedule.num_chunks} "
        f"{executor.recompute} {executor.offload:g}"
    )


@dataclass(frozen=True)
class Sharded:
    """Fully sharded weights and shared sequences."""

    ring: int
    recompute: str
    speed: float


def contexts(shape: Shape, hardware: Hardware) -> Iterator[Sharded]:
    """Every ring and policy that fits."""
    for ring in (2**n for n in range(11)):
        fits = shape.devices % ring == 0 and shape.seq_len % (128 * ring) == 0
        if fits and shape.sequences % (shape.devices // ring) == 0:
            for recompute in ("selective", "matmuls", "full"):
                if (speed := _sharded_speed(shape, hardware, ring, recompute)) is not None:
                    yield Sharded(ring, recompute, speed)


def _sharded_speed(
    shape: Shape, hardware: Hardware, ring: int, recompute: str
) -> float | None:
    """Tokens/s per device; `None` if it does not fit."""
    config = replace(
        _config(shape),
        schedule=ScheduleConfig(name="1f1b", num_microbatches=1, num_chunks=1),
        executor=ExecutorConfig(recompute=recompute),
    )
    draft = draft_of(config, hardware)
    model, tokens = draft.shape, shape.seq_len // ring
    layer = model.layer_weights(1)
    kept = sum(v.nbytes for v in residuals(model, recompute, 1, Tokens(1, tokens)))
    scratch = 2 * sum(v.nbytes for v in residuals(model, "none", 1, Tokens(1, tokens)))
    held = STATE_BYTES * model.num_params / shape.devices + 2 * 2 * layer
    held += model.num_layers * kept + scratch + _table_bytes(model)
    if held > hardware.usable:
        return None
    work = work_of(draft, hardware)
    share = tokens / (tokens + hardware.matmul_share.half)
    slower = (shape.seq_len / (shape.seq_len + hardware.matmul_share.half)) / share
    seconds = 0.0
    kv_bytes = 2 * tokens * model.num_kv_heads * model.head_dim * 2
    for op, gathers, laps in ((Op.F, 1, 1), (Op.B, 1, 2)):
        kinds = {name: float(times.sum()) / ring for name, times in work.by_op[op].items()}
        computed = kinds["matmul"] * slower + kinds["attention"] + kinds["other"]
        moved = gathers * 2 * layer * model.num_layers
        moved += 4 * layer * model.num_layers if op is Op.B else 0
        link = moved / hardware.bandwidth(shape.devices)
        link += laps * (ring - 1) * kv_bytes * model.num_layers / hardware.bandwidth(ring)
        seconds += max(computed, link)
    steps = shape.sequences * ring / shape.devices
    total = steps * seconds
    return shape.sequences * shape.seq_len / total / shape.devices


def _table_bytes(model: ModelShape) -> float:
    """Gathered embedding or head, and its gradient."""
    return 6.0 * model.vocab_size * model.model_dim


if __name__ == "__main__":
    raise SystemExit(main())
