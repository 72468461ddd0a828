"""A run's folder: what is saved of a run, and how it is found again."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from seq1f1b_jax.config import Config, ModelConfig, UserError
from seq1f1b_jax.data import SequenceData, Tokenizer
from seq1f1b_jax.data.tokenizer import BYTES, TOKENIZER, TOKENIZER_CONFIG
from seq1f1b_jax.distributed import ALONE, Group
from seq1f1b_jax.paths import RUN_CONFIG, resolve
from seq1f1b_jax.pipeline.layout import staged_shapes
from seq1f1b_jax.pipeline.rows import put_tree
from seq1f1b_jax.pipeline.stage import Params
from seq1f1b_jax.training.checkpoint import Checkpointer
from seq1f1b_jax.training.checkpoint_folder import CHECKPOINTS, folder_of
from seq1f1b_jax.training.checkpoint_read import (
    Checkpoint,
    differences,
    find_checkpoint,
    open_state,
    read_checkpoint,
)
from seq1f1b_jax.training.lock import LOCK
from seq1f1b_jax.training.optimizer import told_change
from seq1f1b_jax.training.setup import Setup
from seq1f1b_jax.training.step import TrainState, state_shardings

METRICS = "metrics.jsonl"


def set_aside(folder: Path) -> Path | None:
    """Rename an earlier run's folder to the first free `<folder>.N`; nothing saved is ever lost.

    Raises:
      UserError: the folder holds no run, is in use as the working folder, or may not be renamed.
    """
    if not folder.is_dir() or {path.name for path in folder.iterdir()} <= {LOCK}:
        return None
    if not any((folder / name).exists() for name in (CHECKPOINTS, METRICS, RUN_CONFIG)):
        raise UserError(
            f"{folder} holds files and no run; --train.resume never moves an earlier run aside "
            "and nothing else: set --train.output_dir to a folder of its own"
        )
    if Path.cwd().is_relative_to(folder.resolve()):
        raise UserError(
            f"--train.output_dir {folder} is the folder you are in, or above it, and cannot be "
            "moved aside; set another"
        )
    real = folder.resolve()  # where the folder is a link, what it points to makes room
    number = 1
    while (moved := real.with_name(f"{real.name}.{number}")).exists():
        number += 1
    try:
        real.rename(moved)
        real.mkdir()
    except OSError as error:
        raise UserError(
            f"cannot move the earlier run {folder} to {moved.name} ({error.strerror}); "
            "set another --train.output_dir"
        ) from error
    return moved


def write_recipe(folder: Path, recipe: str) -> None:
    """Keep the run's configuration as YAML that `--config` reads, whole or not at all.

    Raises:
      UserError: the folder cannot be written.
    """
    path = folder / RUN_CONFIG
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_text(recipe, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}); "
            "set train.output_dir to a folder that this user may write"
        ) from error


def check_folder(folder: Path) -> None:
    """Refuse a folder with a tokenizer in it and no run, such as a checkpoint that others made.

    Raises:
      UserError: it is one; a run would overwrite the files.
    """
    if (folder / RUN_CONFIG).exists() or (folder / CHECKPOINTS).exists():
        return
    found = [name for name in (TOKENIZER, TOKENIZER_CONFIG) if (folder / name).exists()]
    if found:
        raise UserError(
            f"{folder} holds {found[0]} and no run; nothing is overwritten: set train.output_dir "
            "to a folder of its own"
        )


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Keep the tokenizer of the run's text, so that the run can be sampled from without its data.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        tokenizer.save(folder)
    except OSError as error:
        raise UserError(
            f"cannot write the tokenizer to {folder} ({error.strerror}); "
            "set train.output_dir to a folder that this user may write"
        ) from error


def make_meta(config: Config, data: SequenceData) -> dict[str, Any]:
    """What a checkpoint records beside the state."""
    tokenizer = data.corpus.tokenizer  # bytes, a folder with a tokenizer.json, or unknown
    kind = TOKENIZER if tokenizer not in (None, BYTES) else tokenizer
    return {"config": asdict(config), "data": data.identity, "tokenizer": kind}


def abstract_state(setup: Setup) -> TrainState:
    """Shapes of a state in the layout that is free of topology."""

    def init(key: jax.Array) -> TrainState:
        params = setup.stage.init(key)
        step = jax.numpy.zeros((), jax.numpy.int32)
        return TrainState(params, setup.optimizer.init(params), step)

    return jax.eval_shape(init, jax.random.key(0))


def check_same_run(meta: Mapping[str, Any], setup: Setup, data: SequenceData) -> None:
    """Refuse a checkpoint of another model, of other data or of another number of sequences a step.

    Everything else may change: stages, chunks, schedule, optimizer, steps, and how the sequences of
    a step are split into microbatches. With another number of them the run would skip or repeat
    data.

    Raises:
      UserError: the fields that differ.
    """
    check_same_model(meta, setup)
    changed = differences(meta["data"], data.identity)
    saved = meta["config"]["data"]
    if data.identity.get("packing") == "documents":  # elsewhere there is nothing to restart
        now = {"restart_positions": setup.config.data.restart_positions}
        changed += differences({name: saved[name] for name in now}, now)
    if changed:
        raise UserError(
            f"the run in {setup.config.train.output_dir} was trained on other data "
            f"({'; '.join(changed)}); give it the same data, or set another --train.output_dir"
        )
    size = meta["config"]["schedule"]["num_microbatches"] * saved["microbatch_size"]
    if size != setup.num_sequences:
        raise UserError(
            f"the run in {setup.config.train.output_dir} takes {size} sequences a step and "
            f"{setup.num_sequences} were asked for; keep schedule.num_microbatches * "
            f"data.microbatch_size at {size}, or set another --train.output_dir"
        )


def check_same_model(meta: Mapping[str, Any], setup: Setup) -> None:
    """Refuse a checkpoint whose model section differs.

    Raises:
      UserError: the fields that differ.
    """
    free = ["preset", "source"] + ["max_positions"] * (setup.config.model.family == "llama")
    # a setting that an older checkpoint does not name had what is now its default
    saved, current = (
        {name: value for name, value in (asdict(ModelConfig()) | model).items() if name not in free}
        for model in (meta["config"]["model"], asdict(setup.config)["model"])
    )
    changed = differences(saved, current)
    if changed:
        folder = setup.config.train.output_dir
        kept = Path(folder, RUN_CONFIG)
        cure = f"take its settings with --config {kept}" if kept.is_file() else "give its settings"
        raise UserError(
            f"the checkpoint in {folder} is of another model ({'; '.join(changed)}); {cure} and "
            "leave out others, or set another --train.output_dir"
        )


def tell_source(meta: Mapping[str, Any], setup: Setup, report: Callable[[str], None]) -> None:
    """Say so where a run that has started is given another source: it has weights of its own."""
    given, began = setup.config.model.source, meta["config"]["model"].get("source")
    if given is not None and (began is None or resolve(given) != resolve(began)):
        what = "from fresh weights" if began is None else f"from model.source={began}"
        report(
            f"note: the run in {setup.config.train.output_dir} began {what}; {given} is not read: "
            "set another --train.output_dir to start from it"
        )


def checkpoints_of(config: Config) -> Path:
    """Where the checkpoints of a run lie; absolute, as Orbax wants it."""
    return Path(config.train.output_dir).absolute() / CHECKPOINTS


def restore_run(
    checkpointer: Checkpointer,
    setup: Setup,
    data: SequenceData,
    report: Callable[[str], None],
    *,
    group: Group = ALONE,
) -> TrainState | None:
    """The newest good state of this run on the mesh, or None for a fresh folder.

    Process 0 looks for it and verifies it; all read what belongs on their devices.
    """
    folder = checkpoints_of(setup.config)

    def newest() -> int | None:
        if not checkpointer.steps():
            return None
        found = find_checkpoint(folder, report=report)
        check_same_run(found.meta, setup, data)
        tell_source(found.meta, setup, report)
        if told := told_change(found.meta["config"], setup.config, found.step):
            report(told)
        return found.step

    step = group.first("newest checkpoint", newest)
    if step is None:
        return None
    checkpoint = read_checkpoint(folder_of(folder, step), step)
    state = place_state(checkpoint, setup)
    checkpointer.continue_from(step)
    return state


def place_state(checkpoint: Checkpoint, setup: Setup) -> TrainState:
    """A checkpoint's arrays on the mesh; each process reads what lies on its devices.

    Raises:
      UserError: the arrays are not those of the run's model and optimizer.
    """
    rows, layout = open_state(checkpoint, abstract_state(setup)), setup.pipeline.layout
    return put_tree(rows, state_shardings(staged_shapes(rows, layout), setup.pipeline), layout)


def load_newest(
    setup: Setup, report: Callable[[str], None], *, group: Group = ALONE
) -> tuple[int, Mapping[str, Any], Params]:
    """Step, meta and topology-free parameters of the newest good checkpoint.

    The parameters are `Rows`, read when they are asked for. Writes nothing; of the optimizer
    nothing is read.
    """
    folder = checkpoints_of(setup.config)

    def newest() -> int:
        found = find_checkpoint(folder, report=report)
        check_same_model(found.meta, setup)
        tell_source(found.meta, setup, report)
        return found.step

    step = group.first("newest checkpoint", newest)
    checkpoint = read_checkpoint(folder_of(folder, step), step)
    params = open_state(checkpoint, abstract_state(setup).params, under="params.")
    return step, checkpoint.meta, params
