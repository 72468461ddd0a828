"""The executor in float32 against `jax.grad`; a model whose actions are as short as launches."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.common import cases, report
from benchmarks.common.cases import Size
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import time_calls
from seq1f1b_jax.inference import reference_loss
from seq1f1b_jax.models import build_stage


def submit_exact(run: Run) -> dict[tuple, Any]:
    """Compile each step in float32, its reference, and its loss in bfloat16."""
    steps = {}
    for case in run.sizes.exact:
        family, num_chunks, recompute = case
        lengths = run.sizes.exact_lengths if num_chunks > 1 else (sum(run.sizes.exact_lengths),)
        stage = build_stage(
            family, num_layers=3, model_dim=64, num_heads=4,
            num_kv_heads=4 if family == "gpt" else 2, vocab_size=251, max_positions=sum(lengths),
        )  # fmt: skip
        size = Size(1, 2, num_chunks, sum(lengths), recompute=recompute)
        step = steps[case] = cases.pipelined(stage, size, lengths=lengths)
        half = replace(step, options=replace(step.options, compute_dtype=jnp.bfloat16))
        reference = jax.value_and_grad(partial(reference_loss, stage))
        params = jax.eval_shape(stage.init, jax.random.key(0))
        ids = jax.ShapeDtypeStruct((2, 1, sum(lengths)), jnp.int32)
        placed = step.abstract_params()
        for what, function, arguments in (
            ("step", step.loss_and_grads, placed), ("reference", reference, params),
            ("bfloat16", half.loss, placed),
        ):  # fmt: skip
            lower = partial(_lower_exactly, function, arguments, ids)
            run.programs.submit(_name(case, what), lower)
    return steps


def _name(case: tuple, what: str) -> str:
    return f"exact {' '.join(map(str, case))} {what}"


def _lower_exactly(function, params, ids):
    with jax.default_matmul_precision("highest"):
        return jax.jit(function).lower(params, ids, ids)


def measure_exact(run: Run, steps: dict[tuple, Any]) -> None:
    """Compare every leaf; rows under `exactness`, the largest error `exactness_worst_leaf`."""
    rows = []
    for case, step in steps.items():
        row = run.case(_name(case, "step"), partial(_errors, run, case, step))
        if row:
            family, num_chunks, recompute = case
            rows.append({"family": family, "C": num_chunks, "recompute": recompute} | row)
    run.values["exactness"] = rows
    run.values["exactness_worst_leaf"] = max((row["worst_leaf"] for row in rows), default=None)
    report.show("exactness (float32, matmul precision highest; bfloat16: loss only)", rows)


def _errors(run: Run, case: tuple, step) -> dict[str, Any]:
    params = jax.jit(step.stage.init)(jax.random.key(0))
    batch = cases.random_batch(step.stage, 2, sum(step.table.chunk_lengths))
    names = {what: _name(case, what) for what in ("step", "reference", "bfloat16")}
    call = {what: run.programs.get(name).call for what, name in names.items()}
    wanted_loss, wanted = call["reference"](params, *batch)
    loss, grads = call["step"](step.from_canonical(params), *batch)
    half_loss = float(call["bfloat16"](step.from_canonical(params), *batch))
    errors = cases.leaf_errors(step.to_canonical(grads), wanted)
    worst = max(errors, key=errors.__getitem__)
    scale = float(wanted_loss)
    return {
        "loss_error": abs(float(loss) - scale) / scale,
        "worst_leaf": errors[worst], "which": worst, "leaves": len(errors),
        "bf16_loss_error": abs(half_loss - scale) / scale,
    }  # fmt: skip


def submit_small(run: Run) -> dict[str, Any]:
    """Compile a tiny model, in which actions take no longer than their launch."""
    stage = build_stage("llama", preset="small", num_layers=2)
    steps = {}
    for num_chunks in run.sizes.small_chunks:
        size = Size(
            1, 4, num_chunks, run.sizes.small_len, attention="auto", compute_dtype=jnp.bfloat16
        )
        name = f"small C={num_chunks}"
        steps[name] = cases.pipelined(stage, size)
        run.programs.submit(name, partial(cases.lower_step, steps[name]))
    return steps


def measure_small(run: Run, steps: dict[str, Any]) -> None:
    """Time per tick; rows under `small_actions`."""
    rows = []
    for name, step in steps.items():
        row = run.case(name, partial(_small_row, run, name, step))
        if row:
            rows.append(row)
    run.values["small_actions"] = rows
    report.show(f"llama small, 2 layers, M=4, T={run.sizes.small_len}, bfloat16", rows)


def _small_row(run: Run, name: str, step) -> dict[str, Any]:
    batch = cases.random_batch(step.stage, 4, run.sizes.small_len)
    timing = time_calls(
        run.programs.get(name).call, cases.fresh_params(step), *batch,
        repeats=run.sizes.repeats, case_seconds=run.sizes.case_seconds,
    )  # fmt: skip
    ticks = step.table.num_ticks
    return {"case": name, **timing, "ticks": ticks,
            "microseconds_per_tick": 1e6 * timing["seconds"] / ticks}  # fmt: skip
