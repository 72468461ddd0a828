"""Bytes per device of a published size, compiled for H100s that are not there. Nothing runs.

    python -m benchmarks.h100_memory                      2.7b, 32,768 tokens, 8 stages, C=1 and 4
    python -m benchmarks.h100_memory --preset 7b --stages 32 --chunks 1 4
    python -m benchmarks.h100_memory --schedule seq-zb-h1 --chunks 4

One chunk of `seq1f1b` is 1F1B. Chunks are balanced, residuals `none` unless told otherwise,
bfloat16, microbatches of one sequence. Needs the extra `aot`. Without autotuning matmul scratch is
not representative; float32 parameters are counted in the peak, the optimizer's state stands beside
it.
"""

import argparse
import os
import time

GB = 1e9


def main(arguments=None) -> int:
    """Compile one step per number of chunks; the exit status is 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.h100_memory", description=__doc__)
    parser.add_argument("--family", default="gpt")
    parser.add_argument("--preset", default="2.7b")
    parser.add_argument("--seq-len", type=int, default=32768)
    parser.add_argument("--stages", type=int, default=8)
    parser.add_argument("--microbatches", type=int, default=16)
    parser.add_argument("--chunks", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--residuals", default="none")
    parser.add_argument("--schedule", default="seq1f1b", help="one that takes chunks")
    options = parser.parse_args(arguments)
    os.environ["JAX_PLATFORMS"] = "cpu"  # read when JAX is first imported
    from benchmarks.report import finish, show

    rows = [measure(options, num_chunks) for num_chunks in options.chunks]
    title = f"{options.schedule}, {options.preset}, {options.seq_len:,} tokens"
    show(f"{title}, {options.stages} x H100, GB", rows)
    finish({f"peak_gb_c{row['C']}": row["peak"] for row in rows})
    return 0


def measure(options, num_chunks: int) -> dict:
    """One row: what the compiled program allocates, beside the prediction's terms."""
    import jax.numpy as jnp

    from benchmarks.cases import Size, lower_step, pipelined
    from models import build_stage
    from seq1f1b_jax.pipeline.aot import h100_mesh
    from seq1f1b_jax.pipeline.memory import predict_memory
    from seq1f1b_jax.schedule import StageCost, balanced_lengths

    stage = build_stage(options.family, preset=options.preset, max_positions=options.seq_len)
    cost = StageCost(
        model_dim=stage.model_dim, num_heads=stage.num_heads, num_kv_heads=stage.num_kv_heads,
        head_dim=stage.head_dim, mlp_dim=stage.mlp_dim, gated=stage.gated,
        vocab_size=stage.vocab_size, residuals=options.residuals,
        layers_per_stage=(-(-stage.num_layers // options.stages),) * options.stages,
    )
    lengths = balanced_lengths(options.seq_len, num_chunks, cost, block=128)
    size = Size(
        options.stages, options.microbatches, num_chunks, options.seq_len,
        residuals=options.residuals, compute_dtype=jnp.bfloat16,
        schedule=options.schedule,
    )
    step = pipelined(stage, size, mesh=h100_mesh((options.stages,), ("pipe",)), lengths=lengths)
    began = time.perf_counter()
    memory = lower_step(step).compile().memory_analysis()
    seconds = time.perf_counter() - began
    prediction = predict_memory(step.program(1))
    terms = {name: round(size / GB, 2) for name, size in prediction.terms().items()}
    return {
        "C": num_chunks,
        "lengths": "+".join(map(str, lengths)),
        "peak": round(memory.peak_memory_in_bytes / GB, 2),
        "temporaries": round(memory.temp_size_in_bytes / GB, 2),
        "predicted": round(prediction.total / GB, 2),
        **terms,
        "compile seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    raise SystemExit(main())
