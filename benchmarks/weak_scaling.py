"""Weak scaling of overhead: CPU seconds of a step over those of its parts.

    python -m benchmarks.weak_scaling                  about 6 minutes on two cores
    python -m benchmarks.weak_scaling --mesh 1,1,1 2,2,2 --repeats 3

Every device has the same work on every mesh (data, pipe, tensor): `data` times the sequences,
`pipe` times the layers, `tensor` times the heads, the MLP width and the vocabulary. So a step on N
devices should take the CPU seconds of its parts: N steps on one device each, side by side. The
excess is overhead: exchanges, idle ticks, work that is replicated over `tensor`. It can also take
less: the devices of a pipeline share one head. Virtual devices share the machine's cores, so wall
time means nothing here; CPU seconds of the whole process do. One process runs all programs in turn.
"""

import argparse
import gc
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.common import report
from benchmarks.common.cases import use_cpu_devices
from seq1f1b_jax.config import OptimizerConfig
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.schedule import even_lengths, make_plan
from seq1f1b_jax.training.optimizer import make_optimizer
from seq1f1b_jax.training.step import init_state, make_train_step

MESHES = (
    (1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 1), (2, 1, 2), (1, 2, 2), (2, 2, 2),
)  # fmt: skip
MICROBATCHES, CHUNKS = 4, 2
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"
"""Keeps the matmuls of a device on one core; with few cores, spreading them costs CPU time."""


@dataclass(frozen=True)
class Work:
    """The work of one device, on any mesh.

    Attributes:
      num_layers: layers per stage.
      num_heads: query heads per device, with 64 dims.
      vocab_size: rows of the vocabulary table per device.
      num_sequences: sequences per microbatch and pipeline.
    """

    seq_len: int = 512
    model_dim: int = 256
    num_layers: int = 2
    num_heads: int = 4
    mlp_dim: int = 1024
    vocab_size: int = 64
    num_sequences: int = 1


def main(arguments=None) -> int:
    """Run, print the table and the line of JSON; the exit status is 0."""
    options = _parser().parse_args(arguments)
    os.environ["XLA_FLAGS"] = ONE_THREAD  # read when the backend starts
    use_cpu_devices(max(data * pipe * tensor for data, pipe, tensor in options.mesh))
    work = Work(seq_len=options.length, model_dim=options.width, mlp_dim=4 * options.width)
    rows = measure(options.mesh, work, repeats=options.repeats)
    report.show("CPU seconds of a step over those of its parts", rows)
    values = {f"overhead_{row['mesh'].replace(',', '_')}": row["ratio"] for row in rows}
    worst = max(values.values())
    report.finish({**values, "max_overhead": worst, "rows": rows}, path=options.out)
    return 0


def measure(
    meshes: Sequence[tuple[int, int, int]], work: Work, *, repeats: int
) -> list[dict[str, Any]]:
    """One row per mesh: its step, and one step on each of as many devices, side by side."""
    sizes = sorted({_size(mesh) for mesh in meshes})
    alone = [make_run((1, 1, 1), work, devices=[d]) for d in jax.devices()[: sizes[-1]]]
    runs: dict[Any, Callable] = {size: partial(side_by_side, alone[:size]) for size in sizes}
    runs |= {mesh: make_run(mesh, work) for mesh in meshes}
    seconds: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):  # in turn, so that a busy machine affects all of them
        for name, run in runs.items():
            seconds[name].append(cpu_seconds(run))
    return table({mesh: (seconds[mesh], seconds[_size(mesh)]) for mesh in meshes})


def table(
    seconds: Mapping[tuple[int, int, int], tuple[Sequence[float], Sequence[float]]],
) -> list[dict[str, Any]]:
    """Medians of the steps and of their parts, and the ratio of the two."""
    rows = []
    for mesh, (whole, parts) in seconds.items():
        step, spread = report.median_and_spread(whole)
        alone = report.median_and_spread(parts)[0]
        rows.append({
            "mesh": ",".join(map(str, mesh)), "devices": _size(mesh), "cpu_seconds": step,
            "spread": spread, "parts_cpu_seconds": alone, "ratio": step / alone,
        })
    return rows


def side_by_side(runs: Sequence[Callable[[], Any]]) -> None:
    """Run all at once, in a thread each."""
    with ThreadPoolExecutor(len(runs)) as pool:
        for running in [pool.submit(run) for run in runs]:
            running.result()


def make_run(
    mesh: tuple[int, int, int], work: Work, *, devices: Sequence[Any] | None = None
) -> Callable[[], Any]:
    """A function that runs one training step on a mesh (data, pipe, tensor), already compiled."""
    num_data, num_ranks, num_tensor = mesh
    stage = build_stage(
        "llama", num_layers=work.num_layers * num_ranks, model_dim=work.model_dim,
        num_heads=work.num_heads * num_tensor, head_dim=64, mlp_dim=work.mlp_dim * num_tensor,
        vocab_size=work.vocab_size * num_tensor,
    )
    plan = make_plan(
        "seq1f1b", num_ranks=num_ranks, num_microbatches=MICROBATCHES, num_chunks=CHUNKS
    )
    pipeline = build_step(
        stage, plan, make_mesh(num_ranks, devices, num_data=num_data, num_tensor=num_tensor),
        chunk_lengths=even_lengths(work.seq_len, CHUNKS, block=64),
        options=ExecutorOptions(recompute="none", sequence_parallel=num_tensor > 1),
    )
    optimizer = make_optimizer(OptimizerConfig(), 100)
    step = make_train_step(pipeline, optimizer, learning_rate=lambda count: 1e-3)
    state = [init_state(pipeline, optimizer, pipeline.init(jax.random.key(0)))]
    batch = _batch(pipeline, stage, work)

    def run() -> None:
        state[0], metrics = step(state[0], *batch)
        metrics.loss.block_until_ready()
        jax.block_until_ready(state[0])

    run()
    return run


def cpu_seconds(run: Callable[[], Any]) -> float:
    """CPU seconds of all threads of this process while it ran.

    It runs once before, so that memory and caches are those of the same program.
    """
    gc.collect()
    run()
    before = time.process_time()
    run()
    return time.process_time() - before


def _batch(pipeline, stage, work: Work):
    shape = (MICROBATCHES, work.num_sequences * pipeline.num_data, work.seq_len)
    spread = PartitionSpec(None, "data") if pipeline.num_data > 1 else PartitionSpec()
    tokens = jax.random.randint(jax.random.key(1), shape, 0, stage.vocab_size, jnp.int32)
    tokens = jax.device_put(tokens, NamedSharding(pipeline.mesh, spread))
    return tokens, tokens


def _size(mesh: tuple[int, int, int]) -> int:
    return mesh[0] * mesh[1] * mesh[2]


def _mesh(text: str) -> tuple[int, int, int]:
    data, pipe, tensor = (int(number) for number in text.split(","))
    return data, pipe, tensor


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.weak_scaling", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--mesh", type=_mesh, nargs="+", default=MESHES, metavar="DATA,PIPE,TENSOR",
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the median counts")
    parser.add_argument("--length", type=int, default=512, help="tokens of a sequence")
    parser.add_argument("--width", type=int, default=256, help="model_dim")
    parser.add_argument("--out", help="JSON file, such as benchmarks/results/weak_scaling.json")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
