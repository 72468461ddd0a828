"""Exactness, the host cost of 0/1 loops, small actions and attention alone, on one GPU."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.common import cases, report
from benchmarks.common.cases import Size
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import time_calls
from seq1f1b_jax.inference import reference_loss
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.ops.attention import blockwise
from seq1f1b_jax.pipeline.executor.control import run_if

EXACT = (("gpt", 1, "none"), ("gpt", 3, "none"), ("llama", 3, "selective"), ("llama", 3, "full"))


def exactness(run: Run) -> None:
    """float32, every gradient leaf against `jax.grad` with textbook attention; bf16 loss too."""
    lengths = run.sizes.exact_lengths
    rows: list[dict[str, Any]] = []
    for family, num_chunks, recompute in EXACT:
        stage = build_stage(
            family, num_layers=3, model_dim=64, num_heads=4,
            num_kv_heads=4 if family == "gpt" else 2, vocab_size=251, max_positions=sum(lengths),
        )
        size = Size(1, 2, num_chunks, sum(lengths), recompute=recompute)
        rows.append(
            {"family": family, "C": num_chunks, "recompute": recompute}
            | _errors(stage, size, lengths if num_chunks == len(lengths) else (sum(lengths),))
        )
    run.values["exactness"] = rows
    run.values["exactness_worst_leaf"] = max(row["worst_leaf"] for row in rows)
    report.show("exactness (float32, matmul precision highest; bf16: loss only)", rows)


def _errors(stage, size: Size, lengths) -> dict[str, Any]:
    params = stage.init(jax.random.key(0))
    batch = cases.random_batch(stage, size.num_microbatches, sum(lengths))
    step = cases.pipelined(stage, size, lengths=lengths)
    with jax.default_matmul_precision("highest"):
        wanted = jax.jit(jax.value_and_grad(lambda p: reference_loss(stage, p, *batch)))(params)
        loss, grads = jax.jit(step.loss_and_grads)(step.from_canonical(params), *batch)
    half = replace(step, options=replace(step.options, compute_dtype=jnp.bfloat16))
    half_loss = float(jax.jit(half.loss)(half.from_canonical(params), *batch))
    errors = cases.leaf_errors(step.to_canonical(grads), wanted[1])
    worst = max(errors, key=errors.__getitem__)
    return {
        "loss_error": abs(float(loss) - float(wanted[0])) / float(wanted[0]),
        "worst_leaf": errors[worst], "which": worst, "leaves": len(errors),
        "bf16_loss_error": abs(half_loss - float(wanted[0])) / float(wanted[0]),
    }


def loop_checks(run: Run) -> None:
    """Host cost of a 0/1-trip loop: a scan over ticks of eight loops that run at most once."""
    trips, loops = run.sizes.loop_trips, 8
    rows = []
    for name, per_tick in (("none runs", 0), ("one of eight runs", 1), ("all run", loops)):
        seconds = time_calls(_looping(trips, loops), jnp.arange(loops) < per_tick,
                             repeats=5, case_seconds=10)["seconds"]
        rows.append({"case": name, "ticks": trips, "loops_per_tick": loops,
                     "microseconds_per_tick": 1e6 * seconds / trips})
    idle, one, full = (row["microseconds_per_tick"] for row in rows)
    run.values["loop_checks"] = rows
    run.values["microseconds_per_check"] = idle / loops
    run.values["microseconds_per_trip"] = (full - idle) / loops
    report.show("0/1-trip loops whose body is one tiny kernel", rows)


def _looping(trips: int, loops: int):
    def tick(value, flags):
        for index in range(loops):
            value = run_if(flags[index], lambda x: x * 1.0001 + 1.0, value)
        return value, None

    @jax.jit
    def run(flags):
        columns = jnp.broadcast_to(flags, (trips, loops))
        return lax.scan(tick, jnp.ones((128,)), columns)[0]

    return run


def small_actions(run: Run) -> None:
    """A tiny model, in which actions take no longer than their launch: step time per tick."""
    length, rows = run.sizes.small_len, []
    stage = build_stage("llama", preset="small", num_layers=2)
    params = stage.init(jax.random.key(0))
    batch = cases.random_batch(stage, 4, length)
    for num_chunks in (1, 4):
        size = Size(1, 4, num_chunks, length, compute_dtype=jnp.bfloat16)
        step = cases.pipelined(stage, size)
        timing = time_calls(
            jax.jit(step.loss_and_grads), step.from_canonical(params), *batch,
            repeats=run.sizes.repeats, case_seconds=run.sizes.case_seconds,
        )
        rows.append({
            "case": f"pipelined C={num_chunks}", **timing, "ticks": step.table.num_ticks,
            "microseconds_per_tick": 1e6 * timing["seconds"] / step.table.num_ticks,
        })
    attention = cases.differentiable("xla_blockwise", platform=jax.default_backend())
    plain = jax.jit(cases.plain(stage, attention=attention, compute_dtype=jnp.bfloat16))
    rows.append({"case": "plain", **time_calls(
        plain, params, *batch, repeats=run.sizes.repeats, case_seconds=run.sizes.case_seconds
    )})
    run.values["small_actions"] = rows
    report.show(f"small actions (llama small, 2 layers, M=4, T={length}, bf16)", rows)


def attention(run: Run) -> None:
    """Forward and backward of attention alone, bf16: our blocks of several sizes and jax.nn's."""
    length, heads = run.sizes.attention_len, run.sizes.attention_heads
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, dout = (jax.random.normal(x, (1, length, heads, 64), jnp.bfloat16) for x in keys)
    rows: list[dict[str, Any]] = []
    run.values["attention"] = rows
    flops = 12 * length * (length + 1) / 2 * heads * 64
    for name, function in _attentions(run.sizes.blocks):
        if run.seconds_left() < 0:
            break
        try:
            timing = time_calls(jax.jit(function), q, k, v, dout, repeats=5, case_seconds=10)
        except Exception as error:  # cuDNN may refuse
            run.fail(f"attention {name}", error)
            continue
        rows.append({"case": name, **timing, "tflops": flops / timing["seconds"] / 1e12})
        print(rows[-1], flush=True)
    report.show(f"attention, forward and backward (T={length}, {heads} heads of 64, bf16)", rows)


def _attentions(blocks):
    def ours(block: int):
        def both(q, k, v, dout):
            out, lse = blockwise.forward(q, k, v, 0, block=block)
            return blockwise.backward(q, k, v, 0, out, lse, dout, block=block)

        return both

    def theirs(implementation: str):
        def both(q, k, v, dout):
            return jax.vjp(cases.jax_nn(implementation), q, k, v)[1](dout)

        return both

    return [(f"xla_blockwise {block}", ours(block)) for block in blocks] + [
        (f"jax.nn {name}", theirs(name)) for name in ("cudnn", "xla")
    ]
