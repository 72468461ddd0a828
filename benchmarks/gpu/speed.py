"""Pipelined steps of one stage against plain `value_and_grad`: wall time, FLOP/s, memory."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.common import cases, report
from benchmarks.common.cases import Size
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import time_calls
from seq1f1b_jax.models import build_stage, num_params
from seq1f1b_jax.pipeline import Stage
from seq1f1b_jax.pipeline.memory import predict_memory
from seq1f1b_jax.schedule import StageCost

H100_BF16_FLOPS = 989e12
"""Dense bf16 peak of an H100 SXM, NVIDIA's data sheet."""


@dataclass(frozen=True)
class Case:
    """One program of the comparison; `lower` traces it, `in_memory` arranges its parameters."""

    name: str
    seq_len: int
    stage: Stage
    lower: Callable[[], Any]
    in_memory: Callable
    predicted_bytes: int | None = None
    num_ticks: int | None = None


def submit(run: Run) -> dict[Case, Future]:
    """Start compiling every case on a few threads; timing starts when all are done."""
    pool = ThreadPoolExecutor(4)
    found = []
    for seq_len, steps in run.sizes.speed:
        stage = build_stage(
            "llama", preset=run.sizes.preset, vocab_size=run.sizes.vocab_size,
        )
        found += [_pipelined(stage, seq_len, *step) for step in steps]
        found += _plain(stage, seq_len, dense=seq_len <= run.sizes.dense_limit)
    return {case: pool.submit(_compile, case) for case in found}


def wait(run: Run, futures: dict[Case, Future]) -> None:
    """Wait for compilations, at most until a minute before the deadline."""
    for case, future in futures.items():
        try:
            future.result(timeout=max(run.seconds_left() - 60, 1))
        except Exception as error:  # reported per case in `measure`
            print(case.name, case.seq_len, type(error).__name__, str(error)[:200], flush=True)


def measure(run: Run, futures: dict[Case, Future]) -> None:
    """Time every case that compiled and fits; a case that fails is a row that says so."""
    rows: list[dict[str, Any]] = []
    run.values["speed"] = rows
    done = [(case, future) for case, future in futures.items() if _compiled(run, case, future)]
    done.sort(key=lambda pair: pair[1].result()[0].memory_analysis().temp_size_in_bytes)
    params = None
    for case, future in done:
        if run.seconds_left() < 0:
            run.fail(f"{case.name} T={case.seq_len}", TimeoutError("past --limit-seconds"))
            continue
        compiled, seconds = future.result()
        if params is None:
            params = jax.jit(case.stage.init)(jax.random.key(0))
        try:
            row = _row(run, case, compiled, params) | {"compile_seconds_threaded": seconds}
        except Exception as error:  # out of memory, a kernel that refuses: the others go on
            run.fail(f"{case.name} T={case.seq_len}", error)
            continue
        rows.append(row)
        print(row, flush=True)
    _compare(rows)
    rows.sort(key=lambda row: (row["T"], row["step_seconds"]))
    report.show("speed (bf16, one device, M=1)", rows)


def _row(run: Run, case: Case, compiled, params) -> dict[str, Any]:
    device = jax.devices()[0]
    memory = compiled.memory_analysis()
    limit = (device.memory_stats() or {}).get("bytes_limit")
    need = memory.temp_size_in_bytes + memory.output_size_in_bytes
    if limit and need > limit - memory.argument_size_in_bytes - _bytes(params):
        raise MemoryError(f"needs {need / 1e9:.1f} GB of {limit / 1e9:.1f} GB; not run")
    before = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
    tokens, targets = cases.random_batch(case.stage, 1, case.seq_len)
    arguments = (case.in_memory(params), tokens, targets)
    timing = time_calls(
        compiled, *arguments, repeats=run.sizes.repeats, case_seconds=run.sizes.case_seconds
    )
    loss = float(compiled(*arguments)[0])
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
    seconds = timing["seconds"]
    layer_params = num_params(case.stage, only_layers=True)
    cost = StageCost.of(case.stage, (case.stage.num_layers,), num_layer_params=layer_params)
    flops = cost.model_flops(num_tokens=case.seq_len, num_pairs=cost.pairs(case.seq_len)) / seconds
    return {
        "case": case.name, "T": case.seq_len, "step_seconds": seconds,
        "spread": timing["spread"], "calls": timing["calls"], "loss": loss,
        "tokens_per_second": case.seq_len / seconds, "model_tflops": flops / 1e12,
        "of_h100_peak": flops / H100_BF16_FLOPS if "H100" in device.device_kind else None,
        "temp_gb": memory.temp_size_in_bytes / 1e9,
        "argument_gb": memory.argument_size_in_bytes / 1e9,
        "output_gb": memory.output_size_in_bytes / 1e9,
        "predicted_temp_gb": case.predicted_bytes and case.predicted_bytes / 1e9,
        # The counter never falls, so a case that did not raise it has no figure.
        "device_peak_gb": peak / 1e9 if peak > before else None,
        "seconds_per_tick": seconds / case.num_ticks if case.num_ticks else None,
    }


def _compare(rows: list[dict[str, Any]]) -> None:
    """Add, per length, time and loss relative to the plain step through the same attention."""
    plain = {row["T"]: row for row in rows if row["case"] == "plain xla_blockwise"}
    for row in rows:
        if row["T"] in plain:
            twin = plain[row["T"]]
            row["time_over_plain"] = row["step_seconds"] / twin["step_seconds"]
            row["loss_difference"] = abs(row["loss"] - twin["loss"]) / abs(twin["loss"])


def _pipelined(stage: Stage, seq_len: int, num_chunks: int, recompute: str) -> Case:
    size = Size(1, 1, num_chunks, seq_len, recompute=recompute, compute_dtype=jnp.bfloat16)
    step = cases.pipelined(stage, size)
    return Case(
        name=f"pipelined C={num_chunks} {recompute}", seq_len=seq_len, stage=stage,
        lower=lambda: cases.lower_step(step), in_memory=step.from_canonical,
        predicted_bytes=predict_memory(step.program(1)).total, num_ticks=step.table.num_ticks,
    )


def _plain(stage: Stage, seq_len: int, *, dense: bool) -> list[Case]:
    platform = jax.default_backend()
    attentions = {
        "plain xla_blockwise": cases.differentiable("xla_blockwise", platform=platform),
        "plain jax.nn cudnn": cases.jax_nn("cudnn"),
    }
    if dense:
        attentions["plain jax.nn xla"] = cases.jax_nn("xla")
    shape = jax.ShapeDtypeStruct((1, 1, seq_len), jnp.int32)

    def case(name: str, attention: Callable) -> Case:
        function = cases.plain(stage, attention=attention, compute_dtype=jnp.bfloat16)
        params = jax.eval_shape(stage.init, jax.random.key(0))
        return Case(
            name=name, seq_len=seq_len, stage=stage, in_memory=lambda params: params,
            lower=lambda: jax.jit(function).lower(params, shape, shape),
        )

    return [case(*pair) for pair in attentions.items()]


def _compile(case: Case):
    start = time.perf_counter()
    compiled = case.lower().compile()
    return compiled, time.perf_counter() - start


def _compiled(run: Run, case: Case, future: Future) -> bool:
    error = future.exception() if future.done() else TimeoutError("still compiling")
    if error is not None:
        run.fail(f"{case.name} T={case.seq_len}", error)
    return error is None


def _bytes(tree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
