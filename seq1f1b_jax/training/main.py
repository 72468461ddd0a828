"""The command `train`: a run from its first or its newest step to its last."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import jax

from seq1f1b_jax.config import Config, UserError
from seq1f1b_jax.data import SequenceData, Tokenizer
from seq1f1b_jax.host.lock import check_shared, run_lock
from seq1f1b_jax.host.stdout import describe_loss
from seq1f1b_jax.inference.sampling import sample_text
from seq1f1b_jax.pipeline.stage import Params, Stage
from seq1f1b_jax.training.bigram import bigram_loss
from seq1f1b_jax.training.checkpoint.checkpointer import Checkpointer
from seq1f1b_jax.training.checkpoint.restore import (
    CHECKPOINTS,
    abstract_state,
    make_meta,
    restore_run,
)
from seq1f1b_jax.training.compile_cache import use_compile_cache
from seq1f1b_jax.training.evaluation import held_out_batches, make_evaluation
from seq1f1b_jax.training.faults.finite import check_finite
from seq1f1b_jax.training.faults.needs import check_state_fits
from seq1f1b_jax.training.faults.watchdog import Watchdog
from seq1f1b_jax.training.feed import make_feed
from seq1f1b_jax.training.job import Job, check_alike, keep_source, make_parts
from seq1f1b_jax.training.loop import Loop
from seq1f1b_jax.training.optimizer import learning_rate_schedule
from seq1f1b_jax.training.reports.events import (
    COMPILE,
    EVENTS,
    MEET,
    RESTORE,
    START,
    Events,
)
from seq1f1b_jax.training.reports.header import describe, size_text
from seq1f1b_jax.training.reports.metrics import (
    METRICS,
    MetricsWriter,
    NoMetrics,
    Sink,
    keep_earlier,
    tensorboard_sink,
    wandb_sink,
)
from seq1f1b_jax.training.reports.progress import ProgressReport, Waiting
from seq1f1b_jax.training.reports.trace import trace_step
from seq1f1b_jax.training.run_folder import (
    check_folder,
    set_aside,
    write_recipe,
    write_tokenizer,
)
from seq1f1b_jax.training.setup import Setup
from seq1f1b_jax.training.step import TrainState, init_state, make_train_step
from seq1f1b_jax.training.step_per_cut import StepByCut

PROMPT_TOKENS = 16
SAMPLE_PROMPT = {"stdlib": "def "}
SAMPLE_TEMPERATURE, SAMPLE_TOP_P = 0.8, 0.95


def train(job: Job) -> int:
    """Train, or continue the run in `train.output_dir`; then evaluate and sample.

    Every process of the run calls this; process 0 writes and prints for all.

    Returns:
      The exit status.
    """
    config, stage, group = job.config, job.stage, job.group
    use_compile_cache(
        config.train.compile_cache, run_folder=job.folder, platform=jax.default_backend()
    )
    setup, data = make_parts(job)
    check_alike(job, data)
    if group.count > 1:
        check_is_for_many(config, group.count)
    check_state_fits(setup)
    batches = held_out_batches(setup, data, config.train.eval_sequences)
    tokenizer = data.corpus.load_tokenizer()
    with ExitStack() as stack:
        group.first("folder", lambda: prepare_folder(job, stack))
        check_shared(job.folder, group)
        print(describe(setup, data, count_params(stage), source=job.source), flush=True)
        events = stack.enter_context(open_events(job))
        stack.enter_context(job.output.when_lost(lambda error: events.note(describe_loss(error))))
        folder = job.folder / CHECKPOINTS
        checkpointer = stack.enter_context(
            Checkpointer(folder, keep=config.checkpoint.keep, group=group)
        )
        state = restore_run(checkpointer, setup, data, job.say, group=group)
        start = 0 if state is None else int(state.step)
        progress = make_progress(job, start)
        batch_of = partial(make_feed(config, setup.mesh).step, data)
        trace = partial(
            trace_step, setup, folder=job.folder, say=job.say, waiting=progress.waiting
        )
        if state is not None and start >= config.train.num_steps:
            if config.train.trace:
                events.begin(COMPILE)
                trace(state, batch_of(start))
            print(
                f"the run is complete; add steps with --train.num_steps {2 * start}, "
                "start over with --train.resume never, train otherwise in another "
                "--train.output_dir, or look at it with the commands evaluate and generate"
            )
            return 0
        if start:
            check_finite(state, f"the checkpoint of step {start} in {job.folder}")
            job.say(f"continuing {job.folder} after step {start}")
        group.first("recipe", lambda: write_settings(job, tokenizer))
        if state is None:
            group.first("source", lambda: keep_source(job))
            params = first_params(job, setup)
            state = init_state(setup.pipeline, setup.optimizer, params)
            del params  # the first step donates them
        batch = batch_of(start)
        events.begin(COMPILE)
        step = make_step(setup, state, batch, job.watchdog, progress.waiting)
        events.begin(MEET)
        group.barrier("compiled")
        if config.train.trace:
            trace(state, batch)
        loop = Loop(
            setup, batch_of, step, checkpointer, stack.enter_context(open_metrics(job, start)),
            evaluate=make_evaluation(setup, waiting=progress.waiting), held_out=batches,
            bigram=bigram_loss(data, batches) if group.is_first else 0.0,
            num_layer_params=count_params(stage, only_layers=True),
            meta=make_meta(config, data), shapes=abstract_state(setup), group=group,
            watchdog=job.watchdog, events=events, progress=progress,
        )
        with job.watchdog.exchanges():
            state, finished = loop.run(state, start)
    if not finished:
        print(f"stopped after step {int(state.step)}; the same command continues")
        return config.distributed.stopped_status
    job.say(f"checkpoints and metrics are in {job.folder}")
    if config.train.sample_tokens and group.count > 1:
        print("sampling is the work of one process: python train.py generate --prompt ...")
    elif config.train.sample_tokens:
        params = setup.pipeline.to_canonical(state.params)
        del state  # its memory on the devices
        prompt = first_words(data, batches[0].tokens[0, 0], tokenizer)
        sample(job, params, prompt, tokenizer=tokenizer)
    return 0


def check_is_for_many(config: Config, count: int) -> None:
    """Refuse settings of a run of one process, where there are `count`.

    Raises:
      UserError: there is one.
    """
    if config.train.trace:
        raise UserError(
            f"train.trace measures the actions of one process, and there are {count}; leave "
            "it off, or trace a run of one process"
        )
    if config.schedule.documents == "batch" and config.data.packing == "documents":
        raise UserError(
            "schedule.documents=batch cuts every step by all its documents, and each of "
            f"{count} processes reads its own rows; use --schedule.documents corpus"
        )


def prepare_folder(job: Job, stack: ExitStack) -> None:
    """Make the run's folder this run's: nobody else's, and no earlier run's if it starts over."""
    folder = job.folder
    stack.enter_context(run_lock(folder))
    if job.config.train.resume == "never" and (moved := set_aside(folder)):
        job.say(f"starting over; the earlier run is kept in {moved}")
        stack.enter_context(run_lock(folder))
    check_folder(folder)


def write_settings(job: Job, tokenizer: Tokenizer | None) -> None:
    """What evaluation and sampling need of the run beside its weights."""
    write_recipe(job.folder, job.recipe)
    if tokenizer is not None:
        write_tokenizer(job.folder, tokenizer)


def open_events(job: Job) -> Events:
    """What the run's time goes to, told by process 0 from the moment it was asked for."""
    events = Events(job.folder / EVENTS if job.group.is_first else None, say=job.say)
    events.begin(START, at=job.began)
    events.begin(RESTORE)
    return events


def open_metrics(job: Job, start: int) -> MetricsWriter | NoMetrics:
    """Where the steps' numbers go; nowhere from other processes than the first."""
    if not job.group.is_first:
        return NoMetrics()
    path = job.folder / METRICS
    if not start and (earlier := keep_earlier(path)):
        moved, steps = earlier
        job.say(
            f"note: {job.folder} has no checkpoint, so the run begins anew; the metrics of {steps} "
            f"steps are kept in {moved.name}"
        )
    sinks = make_sinks(job.config, job.folder, start)
    return MetricsWriter(path, start_step=start, sinks=sinks, say=job.say)


def make_progress(job: Job, start: int) -> ProgressReport:
    """What shows how far the run is; nothing of other processes than the first is heard."""
    bar = None if job.config.logging.progress and job.group.is_first else False
    steps = job.config.train.num_steps
    return ProgressReport(steps, start_step=start, bar=bar, alone=job.group.count == 1)


def first_params(job: Job, setup: Setup) -> Params:
    """Where training starts: the weights of a checkpoint, or fresh ones."""
    if job.source is None:
        return setup.pipeline.init(jax.random.key(job.config.train.seed))
    job.say(f"starting from {job.source.told}")
    return setup.pipeline.from_canonical(job.source.load(setup.stage))


def first_words(data: SequenceData, tokens, tokenizer: Tokenizer | None) -> str:
    """What the sample at the end begins with: a word of Python, or the first held-out tokens."""
    if data.corpus.kind in SAMPLE_PROMPT:
        return SAMPLE_PROMPT[data.corpus.kind]
    ids = tokens[:PROMPT_TOKENS].tolist()
    return " ".join(map(str, ids)) if tokenizer is None else tokenizer.decode(ids)


def make_step(
    setup: Setup, state: TrainState, batch, watchdog: Watchdog, waiting: Waiting
) -> Callable:
    """The compiled step; cut anew for every batch where the partition follows the batch."""
    config = setup.config
    if config.watchdog.ticks:
        setup = replace(setup, pipeline=setup.pipeline.traced(watchdog.actions))
    by_batch = config.data.packing == "documents" and config.schedule.documents == "batch"
    if by_batch and config.schedule.partition == "balanced":
        return StepByCut(setup, partial(compile_step, waiting=waiting), watchdog)
    return compile_step(setup, state, batch, waiting=waiting)


def compile_step(
    setup: Setup, state: TrainState, batch, *, waiting: Waiting, what: str = "the training step"
) -> Callable:
    """Compile the train step ahead, and tell how long it took and what it allocates."""
    config = setup.config
    schedule = learning_rate_schedule(config.optimizer, config.train.num_steps)
    step = make_train_step(setup.pipeline, setup.optimizer, learning_rate=schedule)
    with waiting(f"compiling {what}") as told:
        step = step.lower(state, *batch).compile()
        if (memory := step.memory_analysis()) is not None:
            temporary = size_text(memory.temp_size_in_bytes)
            kept = size_text(memory.argument_size_in_bytes)
            kept += " of parameters and optimizer"
            told.append(f"per device {temporary} of temporaries, {kept}")
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


def sample(job: Job, params, prompt: str, *, tokenizer: Tokenizer | None) -> None:
    """A few lines from the trained model."""
    train = job.config.train
    try:
        print("\nsampled from the trained model:")
        sample_text(
            job.stage, params, prompt, stream=job.stream, num_tokens=train.sample_tokens,
            seed=train.seed, temperature=SAMPLE_TEMPERATURE, top_p=SAMPLE_TOP_P,
            tokenizer=tokenizer, output=job.output,
        )
    except ValueError as error:  # more tokens than learned positions: the run itself is complete
        print(f"none: {error}; set a smaller --train.sample_tokens")
