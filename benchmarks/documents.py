"""The cost of attention within documents: CPU seconds over those without documents.

    python -m benchmarks.documents     about 3 minutes on two cores

Forward and backward of blockwise attention for the last of four chunks, documents of equal length.
The lower bound is the fraction of query-key pairs that stay visible; blocks that a border cuts are
computed whole. The row of one document shows the cost of loops whose trip count depends on data.
Compiled bytes are those of a whole step, with documents over without.
"""

import argparse
import time
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import report
from benchmarks.common.cases import use_cpu_devices
from benchmarks.step import make_stage
from seq1f1b_jax.ops.attention import Prefix, get_backend
from seq1f1b_jax.pipeline import ExecutorOptions, build_step, make_mesh
from seq1f1b_jax.schedule import make_plan

LENGTH, CHUNKS, HEADS, HEAD_DIM = 8192, 4, 4, 64
PARTS = (1, 2, 4, 8, 16)


def main(arguments=None) -> int:
    """Measure, print the tables and the line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.documents", description=__doc__)
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens of a sequence")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, after one to warm up")
    options = parser.parse_args(arguments)
    use_cpu_devices(2)
    values = measure_attention(options.length, repeats=options.repeats)
    values["step_bytes_over_plain"] = compiled_bytes(True) / compiled_bytes(False)
    report.show("Compiled bytes of a step", [{"over plain": values["step_bytes_over_plain"]}])
    report.finish(values)
    return 0


def measure_attention(length: int, *, repeats: int) -> dict[str, float]:
    """CPU seconds of the last chunk by number of documents, over those without documents."""
    size, offset = length // CHUNKS, length - length // CHUNKS
    draw = np.random.default_rng(0).standard_normal
    q, dout = (jnp.asarray(draw((1, size, HEADS, HEAD_DIM)), jnp.float32) for _ in range(2))
    k, v = (jnp.asarray(draw((1, size, HEADS, HEAD_DIM)), jnp.float32) for _ in range(2))
    before = (jnp.asarray(draw((1, offset, HEADS, HEAD_DIM)), jnp.float32) for _ in range(2))
    prefix = Prefix(*before)
    backend = get_backend("xla_blockwise")

    @jax.jit
    def both(starts):
        out, lse = backend.forward(q, k, v, prefix, starts)
        return backend.backward(q, k, v, prefix, out, lse, dout, starts)

    positions = np.arange(offset, length)
    inputs = {0: None} | {
        parts: jnp.asarray((positions // (length // parts) * (length // parts))[None], jnp.int32)
        for parts in PARTS
    }
    seconds = {name: [] for name in inputs}
    for name, starts in [*inputs.items()] * (repeats + 1):  # in turn: a slow minute affects all
        began = time.process_time()
        jax.block_until_ready(both(starts))
        seconds[name].append(time.process_time() - began)
    plain = median(seconds[0][1:])
    rows = [{"documents": "none", "CPU seconds": plain, "over none": 1.0, "pairs": 1.0}]
    values = {}
    for parts in PARTS:
        ratio = median(seconds[parts][1:]) / plain
        visible = (positions - np.asarray(inputs[parts])[0] + 1).sum() / (positions + 1).sum()
        rows.append({
            "documents": parts, "CPU seconds": ratio * plain, "over none": ratio,
            "pairs": float(visible),
        })  # fmt: skip
        values[f"documents_{parts}_over_plain"] = ratio
        values[f"documents_{parts}_pairs"] = float(visible)
    report.show(f"Attention of a chunk, {size} queries at {offset}", rows)
    return values


def compiled_bytes(documents: bool) -> int:
    """Temporaries and outputs per device of a step of P=2, M=4, C=4."""
    stage = make_stage(length=2048, width=128, num_layers=4)
    plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=4, num_chunks=4)
    step = build_step(
        stage, plan, make_mesh(2), chunk_lengths=(512,) * 4,
        options=ExecutorOptions(restart_positions=documents),
    )
    tokens = jax.ShapeDtypeStruct((4, 1, 2048), jnp.int32)
    batch = (tokens,) * (3 if documents else 2)
    run = jax.jit(step.loss_and_grads).lower(step.abstract_params(), *batch).compile()
    memory = run.memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


if __name__ == "__main__":
    raise SystemExit(main())
