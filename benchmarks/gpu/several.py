"""Several GPUs: Seq1F1B against 1F1B, and exchange by parity against all neighbours every tick."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as Spec

from benchmarks.common import cases, report
from benchmarks.common.cases import Size
from benchmarks.gpu.run import Run
from benchmarks.gpu.timing import time_calls
from benchmarks.timeline import all_neighbours
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.ops.axes import PIPE
from seq1f1b_jax.pipeline.executor.scan import run_schedule
from seq1f1b_jax.pipeline.params.sharding import specs
from seq1f1b_jax.pipeline.weights import collect_gradients, prepare_inputs

ONE, PARITY, ALL = "1f1b", "seq1f1b", "seq1f1b, all neighbours every tick"


def submit(run: Run) -> dict[str, Any]:
    """Compile the step of each schedule; nothing on one GPU."""
    num_ranks = min(jax.device_count(), run.sizes.ranks)
    if num_ranks == 1:
        return {}
    seq_len, num_chunks, preset = run.sizes.ranks_step
    stage = build_stage("llama", preset=preset, vocab_size=run.sizes.vocab_size)
    steps = {}
    for name in (ONE, PARITY, ALL):
        size = Size(
            num_ranks, num_ranks, 1 if name == ONE else num_chunks, seq_len,
            recompute="selective", attention="auto", compute_dtype=jnp.bfloat16,
            schedule=ONE if name == ONE else PARITY,
        )  # fmt: skip
        steps[name] = cases.pipelined(stage, size)
        run.programs.submit(_name(name), partial(_lower, steps[name], everyone=name == ALL))
    return steps


def measure(run: Run, steps: dict[str, Any]) -> None:
    """Time them in turn; rows and ratios under `several_gpus`, `seq1f1b_over_1f1b` and so on."""
    if not steps:
        print("one GPU: nothing to compare", flush=True)
        return
    rows = [
        row for name, step in steps.items()
        if (row := run.case(_name(name), partial(_row, run, name, step)))
    ]  # fmt: skip
    seconds = {row["case"]: row["step_seconds"] for row in rows}
    for key, (one, other) in {
        "seq1f1b_over_1f1b": (PARITY, ONE), "all_neighbours_over_parity": (ALL, PARITY),
    }.items():  # fmt: skip
        if one in seconds and other in seconds:
            run.values[key] = seconds[one] / seconds[other]
    run.values["several_gpus"] = rows
    report.show(f"llama {run.sizes.ranks_step[2]}, one microbatch per rank, bfloat16", rows)


def _name(name: str) -> str:
    return f"several {name}"


def _lower(step, *, everyone: bool):
    if not everyone:
        return cases.lower_step(step)
    shape = (step.table.num_microbatches, 1, sum(step.table.chunk_lengths))
    ids = jax.ShapeDtypeStruct(shape, jnp.int32)
    return jax.jit(_exchanging_everywhere(step)).lower(step.abstract_params(), ids, ids)


def _exchanging_everywhere(step):
    """The step's sums of losses and gradients, all neighbours exchanging in every tick."""
    program = step.program(1)
    layout = specs(step.abstract_params(), step.layout)

    def body(params, tokens, targets):
        inputs = prepare_inputs(program, params, tokens, targets, None)
        state = run_schedule(program, inputs, exchange=all_neighbours)
        return lax.psum(state.loss, PIPE), collect_gradients(program, state.grads)

    return jax.shard_map(
        body, mesh=step.mesh, in_specs=(layout, Spec(), Spec()), out_specs=(Spec(), layout),
        check_vma=False,
    )  # fmt: skip


def _row(run: Run, name: str, step) -> dict[str, Any]:
    call = run.programs.get(_name(name)).call
    num_microbatches, seq_len = step.table.num_microbatches, sum(step.table.chunk_lengths)
    batch = cases.random_batch(step.stage, num_microbatches, seq_len)
    placed = jax.device_put(batch, jax.NamedSharding(step.mesh, Spec()))
    params = cases.fresh_params(step)
    timing = time_calls(
        call, params, *placed, repeats=run.sizes.repeats, case_seconds=run.sizes.case_seconds
    )
    loss = float(call(params, *placed)[0])
    targets = int(jnp.sum(batch[1] >= 0))
    seconds = timing["seconds"]
    memory = call.memory_analysis()
    return {
        "case": name, "P": step.table.num_ranks, "M": num_microbatches,
        "C": step.table.num_chunks, "T": seq_len, "step_seconds": seconds,
        "spread": timing["spread"],
        "tokens_per_second_per_gpu": num_microbatches * seq_len / seconds / step.table.num_ranks,
        "loss": loss / targets if name == ALL else loss, "ticks": step.table.num_ticks,
        "temp_gb": memory.temp_size_in_bytes / 1e9,
    }  # fmt: skip
