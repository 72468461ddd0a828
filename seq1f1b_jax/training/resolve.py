"""What settings leave open, filled in once: the model and its sizes, the ranks of the pipeline."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import jax

from seq1f1b_jax.cli.devices import count_ranks, mend_command, probe_machine
from seq1f1b_jax.config import Config, UserError
from seq1f1b_jax.config.checks import validate
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.models.hf import Source, read_source
from seq1f1b_jax.pipeline.stage import Stage
from seq1f1b_jax.plan.fill import fill_model
from seq1f1b_jax.training.checkpoint.folder import CHECKPOINTS, committed_steps
from seq1f1b_jax.training.custom_stage import load_stage, model_of

CUSTOM = ("stage", "settings")
"""Settings of a custom model."""


class Resolved(NamedTuple):
    """What a configuration comes to.

    Attributes:
      config: without open fields.
      stage: the model.
      source: the checkpoint that its weights come from, unread; None: fresh weights.
    """

    config: Config
    stage: Stage
    source: Source | None


def resolve(
    config: Config, *, stage: Stage | None = None, say: Callable[[str], None] = print
) -> Resolved:
    """Fill in the model, its vocabulary and positions, and the devices; nothing changes after it.

    Args:
      config: the settings, as parsed.
      stage: the model where there is one already; None: `config.model` describes it.
      say: prints a line.

    Raises:
      UserError: no such model, too few devices, or settings that do not fit together.
      ValueError: a stage that breaks a rule.
    """
    source, custom = None, config.model.stage
    if stage is not None:
        config = replace(config, model=model_of(stage))
    elif custom is not None:
        stage = load_stage(custom, config.model.settings)
        config = replace(config, model=model_of(stage, custom, config.model.settings))
    else:
        source = open_source(config, say)
        config = fill_model(config, source and source.fields)
        validate(config)
        sizes = {k: value for k, value in asdict(config.model).items() if k not in CUSTOM}
        stage = build_stage(**sizes, lora=config.lora)
    config = with_devices(config)
    validate(config)
    return Resolved(config, stage, source)


def open_source(config: Config, say: Callable[[str], None]) -> Source | None:
    """The checkpoint to start from, if any; no tensor is read.

    A run that has started does not need it any more.
    """
    if config.model.source is None:
        return None
    try:
        return read_source(config.model.source)
    except UserError as error:
        if not committed_steps(Path(config.train.output_dir) / CHECKPOINTS):
            raise
        say(f"continuing without model.source: {error}")
        return None


def with_devices(config: Config) -> Config:
    """`mesh.pipe` as a number: as many ranks as the devices present allow, unless it is set."""
    try:
        present = len(jax.devices())
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"JAX cannot start: {reason}; {mend_command(probe_machine())}") from error
    ranks = count_ranks(config.mesh, present, platform=jax.default_backend())
    return replace(config, mesh=replace(config.mesh, pipe=ranks))
