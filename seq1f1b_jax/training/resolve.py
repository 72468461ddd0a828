"""What settings leave open, filled in once: the model and its sizes, the ranks of the pipeline."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import jax

from seq1f1b_jax.cli.devices import count_ranks, mend_command, probe_machine
from seq1f1b_jax.config import Config, UserError, resolve_model
from seq1f1b_jax.config.checks import validate
from seq1f1b_jax.data.folder import META, read_meta
from seq1f1b_jax.models import build_stage, preset_fields
from seq1f1b_jax.models.hf import Source, read_source
from seq1f1b_jax.pipeline.stage import Stage
from seq1f1b_jax.training.checkpoint.folder import CHECKPOINTS, committed_steps
from seq1f1b_jax.training.custom_stage import load_stage, model_of

BYTE_VOCABULARY = 256
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
        config = fill_model(config, source)
        validate(config)
        sizes = {k: value for k, value in asdict(config.model).items() if k not in CUSTOM}
        stage = build_stage(**sizes)
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


def fill_model(config: Config, source: Source | None = None) -> Config:
    """The sizes of the preset or the checkpoint, and those that follow from the data, filled in."""
    model, preset = config.model, source and source.fields
    if model.stage is not None:
        return config
    if source is not None:
        model = replace(model, preset=None)  # recipes name one; the checkpoint is what it is
    if model.preset is not None:
        preset = preset_fields(model.family, model.preset)
    model = resolve_model(model, preset)
    if source is None and config.model.vocab_size is None:  # a preset's may be too small
        rows = (model.vocab_size, _vocab_size(config.data.source))
        model = replace(model, vocab_size=max(filter(None, rows), default=None))
    if model.max_positions is None:
        model = replace(model, max_positions=config.data.seq_len)
    return replace(config, model=model)


def with_devices(config: Config) -> Config:
    """`mesh.pipe` as a number: as many ranks as the devices present allow, unless it is set."""
    try:
        present = len(jax.devices())
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"JAX cannot start: {reason}; {mend_command(probe_machine())}") from error
    ranks = count_ranks(config.mesh, present, platform=jax.default_backend())
    return replace(config, mesh=replace(config.mesh, pipe=ranks))


def _vocab_size(source: str) -> int | None:
    """Of the data's tokenizer: bytes, or that of a token folder; unknown for a `.bin`."""
    if source.endswith(".bin"):
        return None
    meta = Path(source, META)
    return read_meta(meta).vocab_size if meta.is_file() else BYTE_VOCABULARY
