"""Steps of one stage against plain `value_and_grad` with jax's own attention: time and memory."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.common import cases, report
from benchmarks.common.cases import Size
from benchmarks.gpu.compiling import preset_options
from benchmarks.gpu.loops import reads_per_tick
from benchmarks.gpu.numerics import reason_against_cudnn
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import time_calls
from seq1f1b_jax.models import build_stage, num_params
from seq1f1b_jax.pipeline import Stage
from seq1f1b_jax.pipeline.executor.scan import ticks_of_iteration
from seq1f1b_jax.pipeline.memory import predict_memory
from seq1f1b_jax.schedule import StageCost

PEAK_BF16_FLOPS = {"H100": 989e12, "H200": 989e12}
"""Dense bfloat16 peak of the SXM cards, NVIDIA's data sheets."""

RECOMPUTE = "selective"


@dataclass(frozen=True)
class Case:
    """One program of the comparison.

    Attributes:
      name: key among the compiled programs.
      case: what the table calls it.
      seq_len: tokens.
      stage: the model.
      lower: traces it.
      in_memory: arranges the parameters.
      step: the pipelined step; `None`: plain autodiff.
    """

    name: str
    case: str
    seq_len: int
    stage: Stage
    lower: Callable[[], Any]
    in_memory: Callable
    step: Any = None


def submit(run: Run) -> list[Case]:
    """Compile the steps, the longest sequences first."""
    found = []
    for seq_len, chunks in run.sizes.steps.items():
        found += [_pipelined(run, seq_len, num_chunks) for num_chunks in chunks]
        found.append(_plain(run, seq_len))
    for case in found:
        run.programs.submit(case.name, case.lower)
    return found


def measure(run: Run, found: list[Case]) -> None:
    """Time them, the smallest first; rows under `steps`."""
    rows = _rows(run, found)
    plain = {row["T"]: row for row in rows if row["C"] is None}
    for row in rows:
        if twin := plain.get(row["T"]):
            row["time_over_plain"] = row["step_seconds"] / twin["step_seconds"]
            for key in ("loss", "gradient_norm"):
                row[f"{key}_difference"] = abs(row[key] - twin[key]) / abs(twin[key])
    run.values["steps"] = rows
    report.show(f"llama {run.sizes.preset}, {RECOMPUTE}, bfloat16, one device, M=1", rows)


def submit_presets(run: Run) -> list[Case]:
    """Compile one step with the flags of each preset."""
    seq_len, num_chunks, num_layers = run.sizes.preset_step
    found = []
    for preset in run.sizes.presets:
        case = _pipelined(run, seq_len, num_chunks, label=f"preset {preset}", num_layers=num_layers)
        run.programs.submit(case.name, case.lower, options=preset_options(preset))
        found.append(case)
    return found


def measure_presets(run: Run, found: list[Case]) -> None:
    """Time it; rows under `presets`."""
    rows = _rows(run, found)
    run.values["presets"] = rows
    report.show("a few layers with each preset of XLA flags, as options of one program", rows)


def _rows(run: Run, found: list[Case]) -> list[dict[str, Any]]:
    ready = [case for case in found if run.case(case.name, partial(_held, run, case)) is not None]
    ready.sort(key=partial(_held, run))
    params, rows = None, []
    for case in ready:
        if params is None:
            params = jax.jit(case.stage.init)(jax.random.key(0))
        row = run.case(case.name, partial(_row, run, case, params))
        if row:
            rows.append(row)
            print(row, flush=True)
    return sorted(rows, key=lambda row: (row["T"], row["step_seconds"]))


def _held(run: Run, case: Case) -> int:
    """Bytes that the program needs beside its arguments."""
    memory = run.programs.get(case.name).call.memory_analysis()
    return memory.temp_size_in_bytes + memory.output_size_in_bytes


def _row(run: Run, case: Case, params) -> dict[str, Any]:
    device = jax.devices()[0]
    compiled, compile_seconds = run.programs.get(case.name)
    memory = compiled.memory_analysis()
    stats = device.memory_stats() or {}
    limit, before = stats.get("bytes_limit"), stats.get("peak_bytes_in_use", 0)
    need = _held(run, case) + memory.argument_size_in_bytes + _nbytes(params)
    if limit and need > limit:
        raise MemoryError(f"needs {need / 1e9:.1f} GB of {limit / 1e9:.1f} GB; not run")
    tokens, targets = cases.random_batch(case.stage, 1, case.seq_len)
    arguments = (case.in_memory(params), tokens, targets)
    timing = time_calls(
        compiled, *arguments, repeats=run.sizes.repeats, case_seconds=run.sizes.case_seconds
    )
    loss, grads = compiled(*arguments)
    norm = float(jax.jit(optax.tree.norm)(grads))
    del grads
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
    seconds = timing["seconds"]
    row = {
        "case": case.case, "T": case.seq_len, "C": case.step and case.step.table.num_chunks,
        "attention": case.step and case.step.attention.name,
        "unrolled": case.step and case.step.unrolled,
        "step_seconds": seconds, "spread": timing["spread"], "calls": timing["calls"],
        "tokens_per_second": case.seq_len / seconds,
        **_utilisation(run, case, seconds, device.device_kind),
        "loss": float(loss), "gradient_norm": norm,
        "temp_gb": memory.temp_size_in_bytes / 1e9,
        "argument_gb": memory.argument_size_in_bytes / 1e9,
        "output_gb": memory.output_size_in_bytes / 1e9,
        # The counter never falls, so a case that did not raise it has no figure.
        "device_peak_gb": peak / 1e9 if peak > before else None,
        "compile_seconds_threaded": compile_seconds,
    }  # fmt: skip
    return row | (_ticks(run, case, compiled, seconds) if case.step else {})


def _utilisation(run: Run, case: Case, seconds: float, device_kind: str) -> dict[str, Any]:
    """Model FLOPs, causal pairs only, nothing recomputed (`StageCost.model_flops`)."""
    layer_params = num_params(case.stage, only_layers=True)
    cost = StageCost.of(case.stage, (case.stage.num_layers,), num_layer_params=layer_params)
    flops = cost.model_flops(num_tokens=case.seq_len, num_pairs=cost.pairs(case.seq_len)) / seconds
    peak = next((p for name, p in PEAK_BF16_FLOPS.items() if name in device_kind), None)
    ceiling = run.values.get("matmul_tflops")
    return {
        "model_tflops": flops / 1e12,
        "mfu": peak and flops / peak,
        "of_matmul": ceiling and flops / 1e12 / ceiling,
    }


def _ticks(run: Run, case: Case, compiled, seconds: float) -> dict[str, Any]:
    table = case.step.table
    ticks, reads = table.num_ticks, reads_per_tick(compiled.as_text(), ticks_of_iteration(table))
    per_read = run.values.get("microseconds_per_check")
    return {
        "predicted_temp_gb": predict_memory(case.step.program(1)).total / 1e9,
        "ticks": ticks, "seconds_per_tick": seconds / ticks, "reads_per_tick": reads,
        "reads_of_step": per_read and 1e-6 * per_read * reads * ticks / seconds,
    }  # fmt: skip


def _model(run: Run, **fields: int) -> Stage:
    return build_stage("llama", preset=run.sizes.preset, vocab_size=run.sizes.vocab_size, **fields)


def _pipelined(run: Run, seq_len: int, num_chunks: int, *, label: str = "", **fields: int) -> Case:
    stage = _model(run, **fields)
    size = Size(
        1, 1, num_chunks, seq_len, recompute=RECOMPUTE, attention="auto",
        compute_dtype=jnp.bfloat16,
    )  # fmt: skip
    step = cases.pipelined(stage, size)
    case = label or f"C={num_chunks}"
    return Case(
        name=f"step {case} T={seq_len}", case=case, seq_len=seq_len, stage=stage, step=step,
        lower=partial(cases.lower_step, step), in_memory=step.from_canonical,
    )  # fmt: skip


def _plain(run: Run, seq_len: int) -> Case:
    stage = _model(run)
    kernel = "cudnn" if reason_against_cudnn(stage.head_dim) is None else "xla"
    function = jax.jit(
        cases.plain(stage, attention=cases.jax_nn(kernel), compute_dtype=jnp.bfloat16)
    )
    params = jax.eval_shape(stage.init, jax.random.key(0))
    ids = jax.ShapeDtypeStruct((1, 1, seq_len), jnp.int32)
    case = f"plain jax.nn {kernel}"
    return Case(
        name=f"step {case} T={seq_len}", case=case, seq_len=seq_len, stage=stage,
        lower=lambda: function.lower(params, ids, ids), in_memory=lambda tree: tree,
    )  # fmt: skip


def _nbytes(tree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
