"""The command `train`: a run from its first or its newest step to its last."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import jax

from seq1f1b_jax.config import Config, UserError
from seq1f1b_jax.data import Batch, MixedData, SequenceData, Tokenizer
from seq1f1b_jax.host.compile_cache import use_compile_cache
from seq1f1b_jax.host.lock import check_shared, run_lock
from seq1f1b_jax.host.progress import ProgressReport
from seq1f1b_jax.host.stdout import describe_loss
from seq1f1b_jax.models import num_params
from seq1f1b_jax.models.hf.lora.weights import source_rows
from seq1f1b_jax.pipeline.stage import Params
from seq1f1b_jax.training.checkpoint.checkpointer import Checkpointer
from seq1f1b_jax.training.checkpoint.restore import (
    CHECKPOINTS,
    abstract_state,
    make_meta,
    restore_run,
)
from seq1f1b_jax.training.commands import sample_at_end
from seq1f1b_jax.training.evaluation import (
    Part,
    bigram_losses,
    evaluate_parts,
    held_out_parts,
    make_evaluation,
)
from seq1f1b_jax.training.faults.finite import check_finite
from seq1f1b_jax.training.faults.needs import check_state_fits, check_step_fits, with_offload
from seq1f1b_jax.training.feed import make_feed
from seq1f1b_jax.training.job import Job, check_alike, keep_source, make_parts
from seq1f1b_jax.training.loop import Loop
from seq1f1b_jax.training.preview.header import describe
from seq1f1b_jax.training.preview.predict import Predicted, predict
from seq1f1b_jax.training.preview.record import compiled_bytes, record
from seq1f1b_jax.training.preview.seconds import describe_measured
from seq1f1b_jax.training.preview.sources import drawn_rows, drawn_shares, with_earlier_draws
from seq1f1b_jax.training.preview.trace import trace_step
from seq1f1b_jax.training.profiler import make_profiler
from seq1f1b_jax.training.reports.events import COMPILE, EVENTS, MEET, RESTORE, START, Events
from seq1f1b_jax.training.reports.prediction import write_prediction
from seq1f1b_jax.training.run_folder import check_folder, set_aside, write_recipe, write_tokenizer
from seq1f1b_jax.training.setup import Setup
from seq1f1b_jax.training.step import TrainState, init_state
from seq1f1b_jax.training.step_per_cut import make_step
from seq1f1b_jax.training.tracking.files import keep_at_end, keep_at_start
from seq1f1b_jax.training.tracking.opened import open_metrics


@dataclass(frozen=True, eq=False)
class OpenRun:
    """A run whose folder is held and whose files are open.

    Attributes:
      predicted: of its step.
      header: the lines above it.
      batch_of: the batch of a step, on the devices.
      tokenizer: of its text; None for token ids.
      start: finished steps, by the newest checkpoint.
    """

    job: Job
    setup: Setup
    data: SequenceData | MixedData
    predicted: Predicted
    header: str
    batch_of: Callable[[int], Batch]
    tokenizer: Tokenizer | None
    events: Events
    checkpointer: Checkpointer
    progress: ProgressReport
    start: int


def train(job: Job) -> int:
    """Train, or continue the run in `train.output_dir`; then evaluate and sample.

    Every process of the run calls this; process 0 writes and prints for all.

    Returns:
      The exit status.
    """
    config = job.config
    use_compile_cache(
        config.train.compile_cache, run_folder=job.folder, platform=jax.default_backend()
    )
    setup, data = make_parts(job)
    check_run(job, setup, data)
    setup = with_offload(setup, job.group)
    held_out = held_out_parts(setup, data, config.train.eval_sequences)
    with ExitStack() as stack:
        run, state = open_run(job, setup, data, stack)
        if state is not None and run.start >= config.train.num_steps:
            return look_again(run, state)
        check_step_fits(setup)
        state = begin(run) if state is None else go_on(run, state)
        loop = make_loop(run, state, held_out, stack)
        with job.watchdog.exchanges():
            state, finished = loop.run(state, run.start)
        keep_at_end(loop.metrics, job, job.page)
    if not finished:
        print(f"stopped after step {int(state.step)}; the same command continues")
        return config.distributed.stopped_status
    if (seconds := run.progress.recent_seconds) and run.predicted.time:
        print(describe_measured(run.predicted.time, seconds))
    for line in drawn_rows(run.data, config.train.num_steps * setup.num_sequences):
        print(line)
    job.say(f"checkpoints and metrics are in {job.folder}")
    if config.train.sample_tokens and job.group.count > 1:
        print("sampling is the work of one process: python train.py generate --prompt ...")
    elif config.train.sample_tokens:
        params = setup.pipeline.to_canonical(state.params)
        del state  # its memory on the devices
        sample_at_end(job, params, data, held_out[0].batches[0])
    return 0


def check_run(job: Job, setup: Setup, data: SequenceData | MixedData) -> None:
    """Refuse what cannot succeed, before anything is written.

    Raises:
      UserError: processes that differ, settings of one process for several, too large a model.
    """
    check_alike(job, data)
    if job.group.count > 1:
        check_is_for_many(job.config, job.group.count)
    check_state_fits(setup)


def check_is_for_many(config: Config, count: int) -> None:
    """Refuse settings of a run of one process, where there are `count`."""
    if config.train.trace:
        raise UserError(
            f"train.trace measures the actions of one process, and there are {count}; leave "
            "it off, or trace a run of one process"
        )
    if config.schedule.documents == "batch" and config.data.packing == "documents":
        raise UserError(
            "schedule.documents=batch needs all documents of a step for its cuts, and each of "
            f"{count} processes reads its own rows; use --schedule.documents corpus"
        )


def open_run(
    job: Job, setup: Setup, data: SequenceData | MixedData, stack: ExitStack
) -> tuple[OpenRun, TrainState | None]:
    """Hold the folder, print the header, open the files, and restore the newest checkpoint.

    Returns:
      The run, and its state; None where it has no checkpoint.
    """
    tokenizer, group = data.corpus.load_tokenizer(), job.group
    group.first("folder", lambda: prepare_folder(job, stack))
    check_shared(job.folder, group)
    predicted, size = predict(setup), num_params(job.stage)
    header = describe(setup, data, num_params=size, predicted=predicted, source=job.source)
    print(header, flush=True)
    events = stack.enter_context(open_events(job))
    stack.enter_context(job.output.when_lost(lambda error: events.note(describe_loss(error))))
    checkpointer = stack.enter_context(
        Checkpointer(job.folder / CHECKPOINTS, keep=job.config.checkpoint.keep, group=group)
    )
    restored = restore_run(checkpointer, setup, data, job.say, group=group)
    state, start = None, 0
    if restored is not None:
        state, start = restored.state, int(restored.state.step)
        data = with_earlier_draws(data, restored.meta, setup, start, job.say)
    batch_of = partial(make_feed(job.config, setup.mesh).step, data)
    progress = make_progress(job, start)
    run = OpenRun(
        job, setup, data, predicted, header, batch_of, tokenizer, events, checkpointer, progress,
        start,
    )
    return run, state


def prepare_folder(job: Job, stack: ExitStack) -> None:
    """Take the run's folder for this run only; if it starts over, move an earlier run aside."""
    folder = job.folder
    stack.enter_context(run_lock(folder))
    if job.config.train.resume == "never" and (moved := set_aside(folder)):
        job.say(f"starting over; the earlier run is kept in {moved}")
        stack.enter_context(run_lock(folder))
    check_folder(folder)


def open_events(job: Job) -> Events:
    """How the run spends its time, recorded by process 0 from the start of the command."""
    events = Events(job.folder / EVENTS if job.group.is_first else None, say=job.say)
    events.begin(START, at=job.began)
    events.begin(RESTORE)
    return events


def make_progress(job: Job, start: int) -> ProgressReport:
    """Shows how far the run is; other processes than the first are silent anyway."""
    bar = None if job.config.logging.progress and job.group.is_first else False
    steps = job.config.train.num_steps
    return ProgressReport(steps, start_step=start, bar=bar, alone=job.group.count == 1)


def look_again(run: OpenRun, state: TrainState) -> int:
    """A run that is complete: trace a step if requested, and print what can be done next."""
    if run.job.config.train.trace:
        run.events.begin(COMPILE)
        trace(run, state, run.batch_of(run.start))
    print(
        f"the run is complete; add steps with --train.num_steps {2 * run.start}, "
        "start over with --train.resume never, train otherwise in another "
        "--train.output_dir, or look at it with the commands evaluate and generate"
    )
    return 0


def begin(run: OpenRun) -> TrainState:
    """The state of step 0: fresh weights, or those of a checkpoint, which the folder names."""
    job, setup = run.job, run.setup
    job.group.first("recipe", lambda: write_settings(run))
    job.group.first("source", lambda: keep_source(job))
    return init_state(setup.pipeline, setup.optimizer, first_params(job, setup))


def go_on(run: OpenRun, state: TrainState) -> TrainState:
    """The state of the newest checkpoint, once it is known to be finite."""
    job = run.job
    if run.start:
        check_finite(state, f"the checkpoint of step {run.start} in {job.folder}")
        job.say(f"continuing {job.folder} after step {run.start}")
    job.group.first("recipe", lambda: write_settings(run))
    return state


def write_settings(run: OpenRun) -> None:
    """What evaluation, sampling and the run's page need of the run beside its weights."""
    write_recipe(run.job.folder, run.job.recipe)
    size = num_params(run.job.stage)
    write_prediction(run.job.folder, record(run.setup, run.predicted, num_params=size))
    if run.tokenizer is not None:
        write_tokenizer(run.job.folder, run.tokenizer)


def first_params(job: Job, setup: Setup) -> Params:
    """Where training starts: the weights of a checkpoint, or fresh ones; adapters are fresh."""
    key = jax.random.key(job.config.train.seed)
    if job.source is None:
        return setup.pipeline.init(key)
    job.say(f"starting from {job.source.describe()}")
    return setup.pipeline.from_canonical(source_rows(job.source, setup.stage, key))


def make_loop(
    run: OpenRun, state: TrainState, held_out: tuple[Part, ...], stack: ExitStack
) -> Loop:
    """Compile the step in every process, trace it if requested, and open the metrics."""
    job, setup, waiting = run.job, run.setup, run.progress.waiting
    metrics = open_metrics(job, run.start, stack)
    keep_at_start(metrics, job, setup, header=run.header)
    batch = run.batch_of(run.start)
    run.events.begin(COMPILE)
    step = make_step(setup, state, batch, watchdog=job.watchdog, waiting=waiting)
    run.events.memory(**compiled_bytes(step))
    run.events.begin(MEET)
    job.group.barrier("compiled")
    if job.config.train.trace:
        trace(run, state, batch)
    return Loop(
        setup, run.batch_of, step, run.checkpointer, metrics,
        evaluate=partial(
            evaluate_parts, make_evaluation(setup, waiting=waiting), parts=held_out
        ),
        bigram=bigram_losses(held_out) if job.group.is_first else 0.0,
        meta=make_meta(job.config, run.data), shapes=abstract_state(setup), group=job.group,
        watchdog=job.watchdog, events=run.events, progress=run.progress,
        profiler=stack.enter_context(make_profiler(job, run.start)),
        drawn=partial(drawn_shares, run.data, setup.num_sequences),
    )


def trace(run: OpenRun, state: TrainState, batch: Batch) -> None:
    """Measure one step, and draw it under its prediction."""
    folder, waiting = run.job.folder, run.progress.waiting
    trace_step(run.setup, state, batch, folder=folder, say=run.job.say, waiting=waiting)
