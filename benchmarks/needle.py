"""Needles in a haystack: what training with chunks learns across their borders.

    python -m benchmarks.needle             about 4 minutes on two shared cores
    python -m benchmarks.needle --float64   the curves without rounding

A sequence is random filler that hides a few needles; a needle is one token that encodes a key and a
value. The last chunk queries them by key, and only the answers carry loss (`.` is filler):

    tokens    . k3=v7 . . . . | . . k1=v4 . . | . . . k5=v0 . . | . k1 k3 . k1 .
    targets   - -     - - - - | - - -     - - | - - - -     - - | - v4 v7 - v4 -

So at least one chunk border separates a needle from every query for it. All that a query sees of a
needle are the keys and values that the needle's chunk left in the cache, and that chunk carries no
loss: only the gradient that crosses the border can train them.

A small llama is trained three times through the pipeline, on two virtual CPU devices, from the same
parameters on the same sequences in the same number of steps: in chunks (`seq1f1b`), with whole
sequences (`1f1b`), and, the control, in chunks whose backward drops the gradient of the prefix. The
control attends to its prefix as the others do, and its queries, outputs and head are trained. But
needles keep their random initial embeddings, and the key and value projections learn only from what
the last chunk attends to in itself, where there is no answer. What remains are random features, 64
kinds of needles in 64 dims: from these it learns something in the end, but slowly (with seed 1,
56 % after 1600 steps, four times as many as the others need). So compare at equal steps: there it
is below a model that sees the values and guesses which is whose.

In float32 the chunked and the whole curve diverge by rounding where they fall steeply, since chunks
sum the same numbers in another order; `--float64` shows that this is the only cause.
"""

import argparse
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from benchmarks.common import cases, report
from benchmarks.common.cases import Size, use_cpu_devices
from seq1f1b_jax.config import OptimizerConfig
from seq1f1b_jax.inference import logits
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.ops.attention import AttentionBackend
from seq1f1b_jax.pipeline import Params, PipelineStep, Stage
from seq1f1b_jax.schedule import even_lengths
from seq1f1b_jax.training.optimizer import learning_rate_schedule, make_optimizer
from seq1f1b_jax.training.step import init_state, make_train_step

RANKS, STEPS = 2, 400
TRAINING, FRESH = 0, 1
"""Streams of random sequences: for training, and for evaluation."""
NUM_FRESH = 512
OPTIMIZER = OptimizerConfig(learning_rate=4e-3, weight_decay=0.0)


@dataclass(frozen=True)
class Task:
    """Sizes of the haystacks. Token ids: fillers, then keys, then needles key by key.

    Attributes:
      seq_len: tokens per sequence.
      num_chunks: equal chunks per sequence; needles are in all but the last, queries in the last.
      num_needles: needles per sequence, with distinct keys and distinct values.
      num_queries: queries per sequence, each for any of its needles.
      num_fillers, num_keys, num_values: numbers of each in the vocabulary.
    """

    seq_len: int = 128
    num_chunks: int = 4
    num_needles: int = 4
    num_queries: int = 24
    num_fillers: int = 8
    num_keys: int = 8
    num_values: int = 8

    @property
    def chunk_lengths(self) -> tuple[int, ...]:
        return even_lengths(self.seq_len, self.num_chunks, block=1)

    @property
    def vocab_size(self) -> int:
        return self.num_fillers + self.num_keys + self.num_keys * self.num_values


@dataclass(frozen=True)
class Training:
    """Sizes of a step: `num_microbatches * num_sequences` sequences; and of the model."""

    num_microbatches: int = 2
    num_sequences: int = 16
    model_dim: int = 64
    num_heads: int = 4
    compute_dtype: Any = jnp.float32  # of the parameters, too


@dataclass(frozen=True)
class Haystacks:
    """Random sequences of a task.

    Attributes:
      tokens: what the model reads, int32 `[M, B, T]`.
      targets: the value asked for at a query, as a number below `num_values`; -1 elsewhere.
      borders: chunk borders between a query and its needle; -1 where there is no query.
    """

    tokens: Int[np.ndarray, "M B T"]
    targets: Int[np.ndarray, "M B T"]
    borders: Int[np.ndarray, "M B T"]


@dataclass(frozen=True)
class Trained:
    """Loss of every step in nats per answer, and accuracy, also by number of borders crossed."""

    losses: list[float]
    accuracy: float
    by_borders: dict[int, float]


def main(arguments=None) -> int:
    """Train three times, print the tables and the line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.needle", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps of every run")
    parser.add_argument("--seed", type=int, default=0, help="of parameters and sequences")
    parser.add_argument("--out", help="file for the line of JSON")
    parser.add_argument("--float64", action="store_true", help="train in float64, without rounding")
    options = parser.parse_args(arguments)
    use_cpu_devices(RANKS)
    jax.config.update("jax_enable_x64", options.float64)
    sizes = Training(compute_dtype=jnp.float64 if options.float64 else jnp.float32)
    values = measure(Task(), sizes, steps=options.steps, seed=options.seed)
    report.finish(values, path=options.out)
    return 0


def measure(task: Task, sizes: Training, *, steps: int, seed: int) -> dict[str, Any]:
    """Chunked, whole and control; their loss curves, accuracies and differences."""
    runs = {}
    for name, pipeline in pipelines(task, sizes).items():
        runs[name] = run(pipeline, task, sizes, steps=steps, seed=seed)
        print(f"{name}: accuracy {runs[name].accuracy:.3f} after {steps} steps", flush=True)
    report.show("loss, nats per answer", _curve_rows(runs, steps))
    report.show("accuracy on fresh sequences", _accuracy_rows(runs))
    chunked, whole, control = runs.values()
    return {
        "chunked_accuracy": chunked.accuracy,
        "whole_accuracy": whole.accuracy,
        "no_prefix_gradient_accuracy": control.accuracy,
        "chance": 1 / task.num_values,
        "chance_of_values_seen": 1 / task.num_needles,
        "steps": steps,
        "max_loss_difference": float(np.max(np.abs(np.subtract(chunked.losses, whole.losses)))),
        "accuracy_by_borders": {name: run.by_borders for name, run in runs.items()},
    }


def pipelines(task: Task, sizes: Training) -> dict[str, PipelineStep]:
    """The three programs by name; only the gradient of the control differs."""
    stage = build_stage(
        "llama", num_layers=RANKS, model_dim=sizes.model_dim, num_heads=sizes.num_heads,
        vocab_size=task.vocab_size,
    )

    def build(schedule, lengths):
        size = Size(
            RANKS, sizes.num_microbatches, len(lengths), task.seq_len,
            compute_dtype=sizes.compute_dtype, schedule=schedule,
        )
        return cases.pipelined(stage, size, lengths=lengths)

    chunked = build("seq1f1b", task.chunk_lengths)
    return {
        "chunked": chunked,
        "whole": build("1f1b", (task.seq_len,)),
        "no prefix gradient": replace(
            chunked, attention=without_prefix_gradient(chunked.attention)
        ),
    }


def without_prefix_gradient(backend: AttentionBackend) -> AttentionBackend:
    """The same attention, with a backward that drops the gradient of keys and values of the prefix.

    The forward and dq are unchanged, so a query still sees its prefix and learns what to look for.
    """

    def backward(*inputs, **options):
        grads = backend.backward(*inputs, **options)
        return grads._replace(prefix=jax.tree.map(jnp.zeros_like, grads.prefix))

    return replace(backend, name=f"{backend.name}, own chunk", backward=backward)


def run(pipeline: PipelineStep, task: Task, sizes: Training, *, steps: int, seed: int) -> Trained:
    """Train, then answer fresh sequences."""
    losses, params = train(pipeline, task, sizes, steps=steps, seed=seed)
    fresh = make_haystacks(task, (1, NUM_FRESH), seed=(seed, FRESH))
    right = right_answers(pipeline.stage, params, fresh)
    by_borders = {
        border: float(right[fresh.borders == border].mean())
        for border in range(1, task.num_chunks)
    }
    return Trained(losses, float(right[fresh.targets >= 0].mean()), by_borders)


def train(
    pipeline: PipelineStep, task: Task, sizes: Training, *, steps: int, seed: int
) -> tuple[list[float], Params]:
    """Losses, and parameters in the topology-free layout; step i sees the i-th batch of `seed`."""
    optimizer = make_optimizer(OPTIMIZER, steps)
    rate = learning_rate_schedule(OPTIMIZER, steps)
    params = pipeline.init(jax.random.key(seed))
    params = jax.tree.map(lambda leaf: leaf.astype(sizes.compute_dtype), params)
    state = init_state(pipeline, optimizer, params)
    train_step = make_train_step(pipeline, optimizer, learning_rate=rate)
    losses = []
    for step in range(steps):
        shape = (sizes.num_microbatches, sizes.num_sequences)
        batch = make_haystacks(task, shape, seed=(seed, TRAINING, step))
        state, metrics = train_step(state, batch.tokens, batch.targets)
        losses.append(float(metrics.loss))
    return losses, pipeline.to_canonical(state.params)


def right_answers(stage: Stage, params: Params, haystacks: Haystacks):
    """Whether the likeliest token is the target, `[M, B, T]`; whole sequences on one device."""
    predict = jax.jit(partial(logits, stage))
    answers = [predict(params, tokens).argmax(-1) for tokens in haystacks.tokens]
    return np.stack(answers) == haystacks.targets


def make_haystacks(task: Task, shape: tuple[int, int], *, seed: tuple[int, ...]) -> Haystacks:
    """Random sequences, the same for the same task, shape `(M, B)` and seed."""
    rng = np.random.default_rng(seed)
    num_rows, rows = int(np.prod(shape)), np.arange(np.prod(shape))[:, None]
    ends = np.cumsum(task.chunk_lengths)
    keys = _distinct(rng, num_rows, task.num_needles, task.num_keys)
    values = _distinct(rng, num_rows, task.num_needles, task.num_values)
    positions = _distinct(rng, num_rows, task.num_needles, ends[-2])
    queries = ends[-2] + _distinct(rng, num_rows, task.num_queries, ends[-1] - ends[-2])
    asked = rng.integers(0, task.num_needles, queries.shape)

    tokens = rng.integers(0, task.num_fillers, (num_rows, task.seq_len))
    tokens[rows, positions] = task.num_fillers + task.num_keys + keys * task.num_values + values
    tokens[rows, queries] = task.num_fillers + keys[rows, asked]
    targets, borders = np.full_like(tokens, -1), np.full_like(tokens, -1)
    targets[rows, queries] = values[rows, asked]
    chunk = np.searchsorted(ends, positions, side="right")  # a chunk's end is its successor's start
    borders[rows, queries] = task.num_chunks - 1 - chunk[rows, asked]
    return Haystacks(
        *(a.astype(np.int32).reshape(*shape, -1) for a in (tokens, targets, borders))
    )


def _distinct(rng: np.random.Generator, num_rows: int, count: int, limit: int) -> np.ndarray:
    """`[num_rows, count]` numbers below `limit`, distinct within a row, in random order."""
    return rng.permuted(np.tile(np.arange(limit), (num_rows, 1)), axis=1)[:, :count]


def _curve_rows(runs: dict[str, Trained], steps: int) -> list[dict[str, Any]]:
    shown = sorted({*range(0, steps, max(1, steps // 10)), steps - 1})
    return [{"step": i} | {name: run.losses[i] for name, run in runs.items()} for i in shown]


def _accuracy_rows(runs: dict[str, Trained]) -> list[dict[str, Any]]:
    def columns(run):
        return {f"{b} borders": share for b, share in run.by_borders.items()}

    return [{"training": name, "all": r.accuracy, **columns(r)} for name, r in runs.items()]


if __name__ == "__main__":
    raise SystemExit(main())
