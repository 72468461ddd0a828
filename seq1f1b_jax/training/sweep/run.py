"""Compile and time configurations one after the other, each beside its prediction."""

import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seq1f1b_jax.config import Config, UserError
from seq1f1b_jax.host.progress import waiting
from seq1f1b_jax.training.preview.predict import predict
from seq1f1b_jax.training.resolve import resolve
from seq1f1b_jax.training.setup import Setup, make_setup
from seq1f1b_jax.training.step import TrainState, init_state, make_train_step


class Row(NamedTuple):
    """A configuration, predicted and measured; `None` where that is not known.

    Attributes:
      schedule: its name.
      chunks: of a sequence.
      microbatches: of a step.
      recompute: policy.
      predicted_bytes: of a device: parameters, optimizer and step.
      compiled_bytes: the same by the compiled program.
      predicted_seconds: of a step.
      measured_seconds: the median of the timed steps.
      tokens_per_second: of all devices together.
      problem: why it did not run; empty if it did.
    """

    schedule: str
    chunks: int
    microbatches: int
    recompute: str
    predicted_bytes: int | None = None
    compiled_bytes: int | None = None
    predicted_seconds: float | None = None
    measured_seconds: float | None = None
    tokens_per_second: float | None = None
    problem: str = ""


HEADINGS = (
    f"{'schedule':18} {'C':>3} {'M':>3} {'recompute':10} {'GB predicted':>12} {'compiled':>9} "
    f"{'s predicted':>11} {'measured':>9} {'tokens/s':>9}"
)


def sweep(configs: Sequence[Config], *, num_steps: int) -> list[Row]:
    """Run all configurations and print a line of each when it is measured.

    Args:
      configs: settings, not resolved.
      num_steps: to time of each.
    """
    print(HEADINGS, flush=True)
    rows = []
    for config in configs:
        row = _measure(config, num_steps)
        rows.append(row)
        print(line_of(row), flush=True)
    return rows


def line_of(row: Row) -> str:
    """A row of the table.

    Example:
      >>> line_of(Row("seq1f1b", 4, 8, "none", problem="too large"))
      'seq1f1b              4   8 none       too large'
    """
    head = f"{row.schedule:18} {row.chunks:3} {row.microbatches:3} {row.recompute:10}"
    if row.problem:
        return f"{head} {row.problem}"
    predicted, compiled = (
        "" if size is None else f"{size / 1e9:.3f}"
        for size in (row.predicted_bytes, row.compiled_bytes)
    )
    expected, measured = (
        "" if seconds is None else f"{seconds:.3g}"
        for seconds in (row.predicted_seconds, row.measured_seconds)
    )
    return (
        f"{head} {predicted:>12} {compiled:>9} {expected:>11} {measured:>9} "
        f"{row.tokens_per_second:9,.0f}"
    )


def _measure(config: Config, num_steps: int) -> Row:
    schedule = config.schedule
    row = Row(
        schedule.name, schedule.num_chunks, schedule.num_microbatches, config.executor.recompute
    )
    try:
        resolved = resolve(config)
        setup = make_setup(resolved.config, resolved.stage)
    except (UserError, ValueError) as error:  # this combination does not exist, others may
        return row._replace(problem=str(error).splitlines()[0])
    predicted = predict(setup)
    row = row._replace(
        predicted_bytes=predicted.needs.total,
        predicted_seconds=predicted.time and predicted.time.seconds,
    )
    with waiting(f"{schedule.name} C={schedule.num_chunks}"):
        compiled, seconds = _timed(setup, num_steps)
    tokens = setup.num_sequences * setup.config.data.seq_len
    return row._replace(
        compiled_bytes=compiled, measured_seconds=seconds, tokens_per_second=tokens / seconds
    )


def _timed(setup: Setup, num_steps: int) -> tuple[int, float]:
    """Bytes of the compiled step, and the median of its seconds."""
    state = init_state(
        setup.pipeline, setup.optimizer, setup.pipeline.init(jax.random.key(0))
    )
    data = setup.config.data
    shape = (setup.config.schedule.num_microbatches, data.microbatch_size, data.seq_len)
    tokens = jax.random.randint(jax.random.key(1), shape, 0, setup.stage.vocab_size, jnp.int32)
    step = make_train_step(setup.pipeline, setup.optimizer).lower(state, tokens, tokens).compile()
    analysis = step.memory_analysis()
    held = (
        analysis.argument_size_in_bytes + analysis.temp_size_in_bytes
        + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    )
    return held, statistics.median(_seconds(step, state, tokens, num_steps + 1)[1:])


def _seconds(step, state: TrainState, tokens: jax.Array, count: int) -> list[float]:
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        state, metrics = step(state, tokens, tokens)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - began)
    return seconds


