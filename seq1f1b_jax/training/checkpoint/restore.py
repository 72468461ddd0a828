"""What is saved of a run, and how it is found again."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import jax

from seq1f1b_jax.cli.renamed import model_name, with_positions
from seq1f1b_jax.config import Config, LoraConfig, ModelConfig, OptimizerConfig, UserError
from seq1f1b_jax.config.optimizer import COURSES, DEFAULTS, optimizer_from, resolve_optimizer
from seq1f1b_jax.data import MixedData, SequenceData
from seq1f1b_jax.data.mixture import MIXTURE, as_in
from seq1f1b_jax.data.tokenizer import BYTES, TOKENIZER
from seq1f1b_jax.distributed import ALONE, Group
from seq1f1b_jax.paths import RUN_CONFIG, resolve
from seq1f1b_jax.pipeline.params.layout import staged_shapes
from seq1f1b_jax.pipeline.params.rows import put_tree
from seq1f1b_jax.pipeline.stage import Params
from seq1f1b_jax.training.checkpoint.checkpointer import Checkpointer
from seq1f1b_jax.training.checkpoint.folder import CHECKPOINTS, folder_of
from seq1f1b_jax.training.checkpoint.read import (
    differences,
    find_checkpoint,
    open_state,
)
from seq1f1b_jax.training.checkpoint.record import (
    Checkpoint,
    read_checkpoint,
)
from seq1f1b_jax.training.checkpoint.trained import check_same_trained
from seq1f1b_jax.training.custom_stage import with_defaults
from seq1f1b_jax.training.optimizer import describe_change
from seq1f1b_jax.training.setup import Setup
from seq1f1b_jax.training.step import TrainState, state_shardings

OPTIMIZER = tuple(f.name for f in fields(OptimizerConfig) if f.name != "decay_steps")
"""Settings whose change is reported; `describe_change` reports that of the other, by its effect."""
OF_STATE = ("name", "min_dim_size_to_factor")
"""Those that decide what the optimizer keeps."""
PLAIN = (int, float, str, bool, NoneType)
"""Types of settings of the optimizer."""
NEEDED_SIZES = (
    ("schedule", "num_microbatches"), ("data", "microbatch_size"), ("train", "num_steps"),
)
NEEDED = ("model", "optimizer", *(section for section, _ in NEEDED_SIZES))
"""Of the configuration in a checkpoint's `meta`."""


class Restored(NamedTuple):
    """The state of a checkpoint, and what was recorded beside it."""

    state: TrainState
    meta: Mapping[str, Any]


def make_meta(config: Config, data: SequenceData | MixedData) -> dict[str, Any]:
    """What a checkpoint records beside the state."""
    tokenizer = data.corpus.tokenizer  # bytes, a folder with a tokenizer.json, or unknown
    kind = TOKENIZER if tokenizer not in (None, BYTES) else tokenizer
    drawn = {MIXTURE: data.record} if isinstance(data, MixedData) else {}
    return {"config": asdict(config), "data": data.identity, "tokenizer": kind, **drawn}


def abstract_state(setup: Setup) -> TrainState:
    """Shapes of a state in the layout that is free of topology."""

    def init(key: jax.Array) -> TrainState:
        params = setup.stage.init(key)
        step = jax.numpy.zeros((), jax.numpy.int32)
        own = setup.pipeline.trained.only(params)
        return TrainState(params, setup.optimizer.init(own), step)

    return jax.eval_shape(init, jax.random.key(0))


def is_of_run(meta: Mapping[str, Any]) -> bool:
    """Whether it is what `make_meta` records, now or in an earlier version."""
    config, data = meta.get("config"), meta.get("data")
    return (
        isinstance(data, dict) and "kind" in data and isinstance(config, dict)
        and (data["kind"] != MIXTURE or isinstance(meta.get(MIXTURE), list))
        and all(isinstance(config.get(section), dict) for section in NEEDED)
        and _is_optimizer(config["optimizer"])
        and all(type(config[section].get(name)) is int for section, name in NEEDED_SIZES)
    )


def _is_optimizer(settings: Mapping[str, Any]) -> bool:
    """Whether they are settings that can be looked up and compared."""
    plain = all(type(value) in PLAIN for value in settings.values())
    name, schedule = settings.get("name", "adamw"), settings.get("schedule", "cosine")
    return plain and name in DEFAULTS and schedule in COURSES


def report_changes(
    meta: Mapping[str, Any], setup: Setup, step: int, report: Callable[[str], None]
) -> None:
    """Report settings that change the later steps of the run, a line each.

    How the work is spread over devices is none of it.
    """
    defaults, now, before = (_deciding(tree) for tree in (
        asdict(Config()), asdict(setup.config), meta["config"]
    ))
    for line in differences(defaults | before, now):
        report(f"note: {line}")
    if line := describe_change(meta["config"], setup.config, step):
        report(line)


def _deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that decide about the result of a step, and may change in a run; flat names."""
    named = {"executor": ("compute_dtype",), "train": ("seed",), "optimizer": OPTIMIZER}
    optimizer = optimizer_from(config["optimizer"])  # usual values as if they had been given
    config = {**config, "optimizer": asdict(optimizer) | resolve_optimizer(optimizer)}
    return {
        f"{section}.{name}": config[section][name]
        for section, names in named.items() for name in names
        if name in config.get(section, {})
    }


def check_same_run(
    meta: Mapping[str, Any], setup: Setup, data: SequenceData | MixedData
) -> None:
    """Refuse a checkpoint of another model, optimizer or data, or of other numbers of sequences.

    Everything else may change: stages, chunks, schedule, the optimizer's settings but for its name
    and what its state is shaped by, steps, and how the sequences of a step are split into
    microbatches. With another number of them the run would skip or repeat data.

    Raises:
      UserError: the fields that differ.
    """
    check_same_model(meta, setup)
    _check_same_optimizer(meta, setup)
    check_same_trained(meta, setup)
    changed = differences(meta["data"], as_in(meta["data"], data.identity))
    saved = meta["config"]["data"]
    if setup.config.data.packing == "documents":  # elsewhere there is nothing to restart
        now = {"restart_positions": setup.config.data.restart_positions}
        changed += differences({name: saved.get(name) for name in now}, now)
    if changed:
        raise UserError(
            f"the run in {setup.config.train.output_dir} was trained on other data "
            f"({'; '.join(changed)}); give it the same data, or set another --train.output_dir"
        )
    size = meta["config"]["schedule"]["num_microbatches"] * saved["microbatch_size"]
    if size != setup.num_sequences:
        raise UserError(
            f"the run in {setup.config.train.output_dir} takes {size} sequences a step, and "
            f"{setup.num_sequences} were requested; keep schedule.num_microbatches * "
            f"data.microbatch_size at {size}, or set another --train.output_dir"
        )


def _check_same_optimizer(meta: Mapping[str, Any], setup: Setup) -> None:
    """Refuse a checkpoint whose optimizer keeps another state.

    Raises:
      UserError: the settings that differ.
    """
    saved, current = (
        {name: settings[name] for name in OF_STATE if name in settings}
        for settings in map(
            resolve_optimizer, (optimizer_from(meta["config"]["optimizer"]), setup.config.optimizer)
        )
    )
    if changed := differences({"optimizer": saved}, {"optimizer": current}):
        folder = setup.config.train.output_dir
        raise UserError(
            f"the run in {folder} has the state of another optimizer ({'; '.join(changed)}); keep "
            "these settings, or start from its weights: python train.py export, and --model.source "
            "with another --train.output_dir"
        )


def check_same_model(meta: Mapping[str, Any], setup: Setup) -> None:
    """Refuse a checkpoint whose model or adapters differ.

    Raises:
      UserError: the fields that differ.
    """
    free = ["preset", "source"] + ["max_positions"] * (setup.config.model.positions == "rotary")
    # a setting that an older checkpoint does not name had what is now its default
    saved, current = (
        {name: value for name, value in (asdict(ModelConfig()) | model).items() if name not in free}
        for model in (with_positions(meta["config"]["model"]), asdict(setup.config)["model"])
    )
    for model in (saved, current):
        model["stage"] = model_name(model["stage"])
        model["settings"] = with_defaults(setup.stage, model)
    lora = LoraConfig(**meta["config"].get("lora", {}))  # of an earlier version: no adapters
    saved["lora"], current["lora"] = (
        {**asdict(one), "projections": list(one.projections)} for one in (lora, setup.config.lora)
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


def report_source(meta: Mapping[str, Any], setup: Setup, report: Callable[[str], None]) -> None:
    """Report that a started run does not read another source: it has its own weights."""
    given, began = setup.config.model.source, meta["config"]["model"].get("source")
    if given is not None and (began is None or resolve(given) != resolve(began)):
        what = "from fresh weights" if began is None else f"from model.source={began}"
        report(
            f"note: the run in {setup.config.train.output_dir} began {what}; {given} is not read: "
            "set another --train.output_dir to start from it"
        )


def checkpoints_of(config: Config) -> Path:
    """Where the checkpoints of a run are; absolute, as Orbax wants it."""
    return Path(config.train.output_dir).absolute() / CHECKPOINTS


def restore_run(
    checkpointer: Checkpointer,
    setup: Setup,
    data: SequenceData | MixedData,
    report: Callable[[str], None],
    *,
    group: Group = ALONE,
) -> Restored | None:
    """The newest good state of this run on the mesh, or None for a fresh folder.

    Process 0 looks for it and verifies it; all read what belongs on their devices.
    """
    folder = checkpoints_of(setup.config)

    def newest() -> int | None:
        if not checkpointer.steps():
            return None
        found = find_checkpoint(folder, report=report, is_ours=is_of_run)
        check_same_run(found.meta, setup, data)
        report_source(found.meta, setup, report)
        report_changes(found.meta, setup, found.step, report)
        return found.step

    step = group.first("newest checkpoint", newest)
    if step is None:
        return None
    checkpoint = read_checkpoint(folder_of(folder, step), step)
    state = place_state(checkpoint, setup)
    checkpointer.continue_from(step)
    return Restored(state, checkpoint.meta)


def place_state(checkpoint: Checkpoint, setup: Setup) -> TrainState:
    """A checkpoint's arrays on the mesh; each process reads what its devices own.

    Raises:
      UserError: the arrays are not those of the run's model and optimizer.
    """
    rows, layout = open_state(checkpoint, abstract_state(setup)), setup.pipeline.layout
    return put_tree(rows, state_shardings(staged_shapes(rows, layout), setup.pipeline), layout)


def load_newest(
    setup: Setup, report: Callable[[str], None], *, group: Group = ALONE
) -> tuple[int, Mapping[str, Any], Params]:
    """Step, meta and topology-free parameters of the newest good checkpoint.

    The parameters are `Rows`, read on demand. Writes nothing; of the optimizer
    nothing is read.
    """
    folder = checkpoints_of(setup.config)

    def newest() -> int:
        found = find_checkpoint(folder, report=report, is_ours=is_of_run)
        check_same_model(found.meta, setup)
        report_source(found.meta, setup, report)
        return found.step

    step = group.first("newest checkpoint", newest)
    checkpoint = read_checkpoint(folder_of(folder, step), step)
    params = open_state(checkpoint, abstract_state(setup).params, under="params.")
    return step, checkpoint.meta, params
