"""CPU seconds of a pipelined step over plain autodiff, and compile seconds of the step.

    python -m benchmarks.step           about 15 minutes on two cores
    python -m benchmarks.step --quick   the step only, attention `xla_blockwise` only

Four virtual CPU devices (P=4, M=4, T=1024, d=256, 8 layers, recompute `none`, float32). Process CPU
seconds count the work of all devices but not waiting, so a busy machine disturbs them less than
wall time. The programs run in turn, so that a slow minute affects all of them.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.common import cases, report
from benchmarks.common.cases import Size, use_cpu_devices
from seq1f1b_jax.models import build_stage

RANKS, MICROBATCHES, LENGTH, LAYERS, WIDTH = 4, 4, 1024, 8, 256
BACKENDS = {"xla_dense": "", "xla_blockwise": "_blockwise"}
"""Attention backend -> suffix of its JSON keys.

The keys without suffix compare steps with `xla_dense`, which computes what the mask hides, as
`jax.nn.dot_product_attention` does: there chunks save that work. `xla_blockwise`, the default of
the trainer, already skips it on whole sequences, so a ratio of about 1 at C=4 is its lower bound.
"""


def main(arguments=None) -> int:
    """Measure, print the tables and the line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="no compile times, one backend")
    parser.add_argument("--repeats", type=int, default=5, help="rounds, after one to warm up")
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens of a sequence")
    parser.add_argument("--width", type=int, default=WIDTH, help="model_dim, a multiple of 32")
    options = parser.parse_args(arguments)
    use_cpu_devices(RANKS)
    backends = list(BACKENDS)[: 1 if options.quick else None]
    values = measure_steps(
        backends, repeats=options.repeats, length=options.length, width=options.width
    )
    if not options.quick:
        values |= measure_compilation(length=options.length, width=options.width)
    report.finish(values)
    return 0


def make_stage(*, length: int, width: int, num_layers: int = LAYERS):
    """The gpt of the benchmark: heads of 32, bytes as vocabulary."""
    return build_stage(
        "gpt", num_layers=num_layers, model_dim=width, num_heads=width // 32, vocab_size=256,
        max_positions=length,
    )


def measure_steps(
    backends: list[str], *, repeats: int, length: int, width: int
) -> dict[str, Any]:
    """Rounds of one call of every program; returns the ratios of the medians."""
    stage = make_stage(length=length, width=width)
    params = stage.init(jax.random.key(0))
    batch = cases.random_batch(stage, MICROBATCHES, length)
    programs = {"plain jax.nn": _plain(stage, params, batch, cases.jax_nn())}
    for name in backends:
        programs[f"plain {name}"] = _plain(stage, params, batch, cases.differentiable(name))
        for num_chunks in (1, 4):
            size = Size(RANKS, MICROBATCHES, num_chunks, length, attention=name)
            programs[f"pipelined {name} C={num_chunks}"] = _pipelined(stage, params, batch, size)
    seconds = _rounds(programs, repeats=repeats)
    medians = {name: report.median_and_spread(times)[0] for name, times in seconds.items()}
    rows = [
        {"program": name, "cpu_seconds": medians[name],
         "spread": report.median_and_spread(times)[1], "rounds": len(times)}
        for name, times in seconds.items()
    ]
    report.show("process CPU seconds of a step", rows)
    values = _ratios(medians, backends)
    report.show("ratios of medians", [{"key": k, "ratio": v} for k, v in values.items()])
    return {"cpu_seconds": medians, **values}


def _ratios(medians: dict[str, float], backends: list[str]) -> dict[str, float]:
    values = {}
    for name in backends:
        suffix, plain = BACKENDS[name], medians[f"plain {name}"]
        one, four = (medians[f"pipelined {name} C={c}"] for c in (1, 4))
        values[f"cpu_ratio_c1{suffix}"] = one / plain
        values[f"cpu_ratio_c4{suffix}"] = four / plain
        values[f"cpu_ratio_c4_over_jax_nn{suffix}"] = four / medians["plain jax.nn"]
    return values


def _rounds(programs: dict[str, Callable], *, repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(repeats + 1):
        for name, run in programs.items():
            start = time.process_time()
            jax.block_until_ready(run())
            if turn:  # the first turn compiles
                seconds[name].append(time.process_time() - start)
    return seconds


def _plain(stage, params, batch, attention: Callable) -> Callable[[], Any]:
    """Microbatch by microbatch on one device, gradients accumulated: `M` without a pipeline."""
    value_and_grad = cases.plain(stage, attention=attention)

    @jax.jit
    def accumulate(total, params, tokens, targets):
        return jax.tree.map(jnp.add, total, value_and_grad(params, tokens, targets))

    first = jax.jit(value_and_grad)
    tokens, targets = batch

    def run():
        total = first(params, tokens[:1], targets[:1])
        for m in range(1, len(tokens)):
            total = accumulate(total, params, tokens[m : m + 1], targets[m : m + 1])
        return total

    return run


def _pipelined(stage, params, batch, size: Size) -> Callable[[], Any]:
    step = cases.pipelined(stage, size)
    staged, function = step.from_canonical(params), jax.jit(step.loss_and_grads)
    return lambda: function(staged, *batch)


def measure_compilation(*, length: int, width: int) -> dict[str, Any]:
    """CPU and wall seconds to trace and compile over C, layers and M; each program once.

    A tiny program goes first, because the first compilation of a process also loads shared code.
    """
    sizes = {
        **{f"compile_seconds_c{c}": (c, LAYERS, MICROBATCHES) for c in (1, 2, 4, 8)},
        "layers 32": (4, 32, MICROBATCHES), "M 64": (4, LAYERS, 64),
    }
    compile_seconds(cases.pipelined(make_stage(length=64, width=32), Size(RANKS, 1, 1, 64)))
    rows = {}
    for name, (num_chunks, num_layers, num_microbatches) in sizes.items():
        stage = make_stage(length=length, width=width, num_layers=num_layers)
        size = Size(RANKS, num_microbatches, num_chunks, length)
        rows[name] = {
            "C": num_chunks, "layers": num_layers, "M": num_microbatches,
            **compile_seconds(cases.pipelined(stage, size)),
        }
    report.show("compilation", list(rows.values()))
    values = {key: row["cpu_seconds"] for key, row in rows.items() if key.startswith("compile")}
    four = rows["compile_seconds_c4"]["cpu_seconds"]
    return values | {
        "compile_layers32_over_8": rows["layers 32"]["cpu_seconds"] / four,
        "compile_m64_over_m4": rows["M 64"]["cpu_seconds"] / four,
        "compile_c8_over_c1": values["compile_seconds_c8"] / values["compile_seconds_c1"],
        "compile_wall_seconds": {key: row["wall_seconds"] for key, row in rows.items()},
    }


def compile_seconds(step) -> dict[str, float]:
    """Seconds from Python function to program, tracing included."""
    cpu, wall = time.process_time(), time.perf_counter()
    cases.lower_step(step).compile()
    return {
        "cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall,
    }


if __name__ == "__main__":
    raise SystemExit(main())
