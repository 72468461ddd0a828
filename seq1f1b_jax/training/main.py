"""The three commands: train, evaluate, generate. Each takes a job and returns an exit status."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax

from seq1f1b_jax.config import Config
from seq1f1b_jax.pipeline.stage import Stage
from seq1f1b_jax.training.bigram import bigram_loss
from seq1f1b_jax.training.checkpoint import Checkpointer
from seq1f1b_jax.training.data import SequenceData, load_corpus, make_data
from seq1f1b_jax.training.evaluation import held_out_batches, make_evaluation
from seq1f1b_jax.training.loop import Loop
from seq1f1b_jax.training.metrics import MetricsWriter, Sink, tensorboard_sink, wandb_sink
from seq1f1b_jax.training.optimizer import learning_rate_schedule
from seq1f1b_jax.training.report import describe, size_text
from seq1f1b_jax.training.sampling import Stream, sample_text
from seq1f1b_jax.training.setup import Setup, make_setup
from seq1f1b_jax.training.step import TrainState, init_state, make_train_step
from seq1f1b_jax.training.storage import (
    CHECKPOINTS,
    METRICS,
    load_newest,
    make_meta,
    restore_run,
    set_aside,
    write_recipe,
)
from seq1f1b_jax.training.trace import trace_step

SAMPLE_PROMPT, SAMPLE_TOKEN = "def ", "0"
SAMPLE_TEMPERATURE, SAMPLE_TOP_P = 0.8, 0.95


class Job(NamedTuple):
    """What a command works on: configuration, the same as YAML, the model and its sampler."""

    config: Config
    recipe: str
    stage: Stage
    stream: Stream


def train(job: Job) -> int:
    """Train, or continue the run in `train.output_dir`; then evaluate and sample."""
    config, recipe, stage, _ = job
    setup, data = make_setup(config, stage), load_data(config)
    batches = held_out_batches(setup, data, config.train.eval_batches)
    folder = Path(config.train.output_dir)
    num_params = count_params(stage)
    print(describe(setup, data, num_params), flush=True)
    if config.train.resume == "never" and (moved := set_aside(folder)):
        print(f"starting over; the earlier run is kept in {moved}")
    with Checkpointer(folder / CHECKPOINTS, keep=config.checkpoint.keep) as checkpointer:
        state = restore_run(checkpointer, setup, data, print)
        start = 0 if state is None else int(state.step)
        if start >= config.train.num_steps:
            print(
                f"the run is complete; add steps with --train.num_steps {2 * start}, "
                "start over with --train.resume never, or look at it with the commands "
                "evaluate and generate"
            )
            return 0
        if start:
            print(f"continuing {folder} after step {start}")
        write_recipe(folder, recipe)
        if state is None:
            state = init_state(setup.pipeline, setup.optimizer, jax.random.key(config.train.seed))
        sinks = make_sinks(config, folder, start)
        batch = data.batch(start, **batch_shape(config))
        step = compile_step(setup, state, batch)
        if config.train.trace:
            trace_step(setup, state, batch, folder=folder, say=print)
        with MetricsWriter(folder / METRICS, start_step=start, sinks=sinks) as metrics:
            loop = Loop(
                setup, data, step, checkpointer, metrics, evaluate=make_evaluation(setup),
                held_out=batches, bigram=bigram_loss(data, batches),
                num_layer_params=count_params(stage, only_layers=True),
                meta=make_meta(config, data),
            )
            state, finished = loop.run(state, start)
    if not finished:
        print(f"stopped after step {int(state.step)}; the same command continues")
        return 0
    print(f"checkpoints and metrics are in {folder}")
    if config.train.sample_tokens:
        params = setup.pipeline.to_canonical(state.params)
        del state  # its memory on the devices
        sample(job, params, is_text=is_text(data.identity))
    return 0


def evaluate(job: Job, *, num_batches: int | None = None) -> int:
    """Held-out loss of the newest checkpoint, through the pipeline."""
    config, stage = job.config, job.stage
    setup, data = make_setup(config, stage), load_data(config)
    _, state = load_newest(setup, print)
    batches = held_out_batches(setup, data, num_batches or config.train.eval_batches)
    params = setup.pipeline.from_canonical(state.params)
    loss = make_evaluation(setup)(params, batches)
    tokens = sum(batch.targets.size for batch in batches)
    print(f"step {int(state.step)}: held-out loss {loss:.4f} nats per token over {tokens:,} tokens")
    print(f"perplexity {math.exp(loss):.3f}, bits per token {loss / math.log(2):.4f}")
    print(f"bigram model on the same text: {bigram_loss(data, batches):.4f} nats per token")
    return 0


def generate(
    job: Job, *, prompt: str, num_tokens: int, temperature: float, top_p: float, seed: int
) -> int:
    """Text sampled from the newest checkpoint, written as it comes."""
    meta, state = load_newest(make_setup(job.config, job.stage), print)
    sample_text(
        job.stage, state.params, prompt, stream=job.stream, num_tokens=num_tokens, seed=seed,
        temperature=temperature, top_p=top_p, is_text=is_text(meta["data"]), write=write_now,
    )
    return 0


def is_text(identity: Mapping[str, Any]) -> bool:
    """Whether data is bytes of text, by what identifies it; else it is token ids."""
    return identity["kind"] != "tokens"


def load_data(config: Config) -> SequenceData:
    """The corpus and its sequences."""
    corpus = load_corpus(
        config.data.source, token_dtype=config.data.token_dtype,
        vocab_size=config.model.vocab_size,
    )
    return make_data(
        corpus, seq_len=config.data.seq_len, eval_fraction=config.data.eval_fraction,
        seed=config.data.seed,
    )


def batch_shape(config: Config) -> dict[str, int]:
    """How a step's sequences are grouped."""
    return {
        "num_microbatches": config.schedule.num_microbatches,
        "microbatch_size": config.data.microbatch_size,
    }


def compile_step(setup: Setup, state: TrainState, batch) -> Callable:
    """Compile the train step ahead, and tell how long it took and what it allocates."""
    print("compiling ... ", end="", flush=True)
    began = time.perf_counter()
    config = setup.config
    schedule = learning_rate_schedule(config.optimizer, config.train.num_steps)
    step = make_train_step(setup.pipeline, setup.optimizer, learning_rate=schedule)
    step = step.lower(state, *batch).compile()
    seconds = time.perf_counter() - began
    memory = step.memory_analysis()
    told = f"{seconds:.1f} s"
    if memory is not None:
        temporary = size_text(memory.temp_size_in_bytes)
        kept = size_text(memory.argument_size_in_bytes)
        told += f"; per device {temporary} of temporaries, {kept} of parameters and optimizer"
    print(told, flush=True)
    return step


def count_params(stage: Stage, *, only_layers: bool = False) -> int:
    """Parameters of the whole model, or of its layers without tables and last norm."""
    params = jax.eval_shape(stage.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params.layers if only_layers else params))


def make_sinks(config: Config, folder: Path, start: int) -> tuple[Sink, ...]:
    """TensorBoard and W&B, where they are asked for."""
    sinks: list[Sink] = []
    if config.logging.tensorboard:
        sinks.append(tensorboard_sink(folder / "tensorboard", start_step=start))
    if config.logging.wandb:
        project = config.logging.wandb_project
        sinks.append(wandb_sink(folder, project=project, config=asdict(config)))
    return tuple(sinks)


def sample(job: Job, params, *, is_text: bool) -> None:
    """A few lines from the trained model."""
    train = job.config.train
    try:
        print("\nsampled from the trained model:")
        sample_text(
            job.stage, params, SAMPLE_PROMPT if is_text else SAMPLE_TOKEN, stream=job.stream,
            num_tokens=train.sample_tokens, seed=train.seed, temperature=SAMPLE_TEMPERATURE,
            top_p=SAMPLE_TOP_P, is_text=is_text, write=write_now,
        )
    except ValueError as error:  # more tokens than learned positions: the run itself is complete
        print(f"none: {error}; set a smaller --train.sample_tokens")


def write_now(text: str) -> None:
    """Print a piece of a line at once; what the terminal's encoding lacks becomes `?`."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()
