"""The model of a configuration: one of our families, a checkpoint, or a stage of one's own.

Models import JAX, whose devices are chosen before: all imports of them are where they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from seq1f1b_jax.config import Config, ModelConfig, UserError, resolve_model
from seq1f1b_jax.config.checks import validate

if TYPE_CHECKING:
    from seq1f1b_jax.pipeline.stage import Stage

BYTE_VOCABULARY = 256
OWN = ("stage", "settings")
"""Settings of a model of one's own."""


def open_source(config: Config, say: Callable[[str], None]) -> Any:
    """The checkpoint to start from (`models.hf.Source`), or None; no tensor is read.

    A run that has started has no need of it any more.
    """
    if config.model.source is None:
        return None
    from seq1f1b_jax.models.hf import read_source
    from seq1f1b_jax.training.checkpoint.folder import committed_steps

    try:
        return read_source(config.model.source)
    except UserError as error:
        if not committed_steps(Path(config.train.output_dir) / "checkpoints"):
            raise
        say(f"going on without model.source: {error}")
        return None


def is_named(model: ModelConfig) -> bool:
    """Whether its sizes are known only once models may be imported."""
    return model.stage is None and bool(model.preset or model.source)


def fill_model(config: Config, source: Any = None) -> Config:
    """The preset or the checkpoint, and what follows from the data, filled in.

    Of a stage of one's own nothing is, and what a recipe says of our families is dropped.
    """
    model = config.model
    if model.stage is not None:
        kept = {name: getattr(model, name) for name in (*OWN, "source")}
        return replace(config, model=ModelConfig(**kept))
    preset = source and source.fields
    if source is not None:
        model = replace(model, preset=None)  # recipes name one; the checkpoint is what it is
    if model.preset is not None:
        from seq1f1b_jax.models import preset_fields

        preset = preset_fields(model.family, model.preset)
    model = resolve_model(model, preset)
    if source is None and config.model.vocab_size is None:  # a preset's may be too small
        rows = (model.vocab_size, _vocab_size(config.data.source))
        model = replace(model, vocab_size=max(filter(None, rows), default=None))
    if model.max_positions is None:
        model = replace(model, max_positions=config.data.seq_len)
    return replace(config, model=model)


def build_model(config: Config, source: Any = None) -> tuple[Config, Stage]:
    """The configuration with the model's sizes, and the model.

    Raises:
      UserError: there is no such stage, or it cannot be made.
      ValueError: sizes that do not fit together, or a stage that breaks a rule.
    """
    name, settings = config.model.stage, config.model.settings
    if name is not None:
        from seq1f1b_jax.training.own_stage import load_stage, model_of

        stage = load_stage(name, settings)
        return replace(config, model=model_of(stage, name, settings)), stage
    from seq1f1b_jax.models import build_stage

    config = fill_model(config, source)
    validate(config)
    sizes = {k: value for k, value in asdict(config.model).items() if k not in OWN}
    return config, build_stage(**sizes)


def described(source: Any) -> Any:
    """The checkpoint for those who know no models (`training.job.Source`)."""
    from seq1f1b_jax.models.hf import keep_origin, load_rows, origin_of
    from seq1f1b_jax.training.job import Source

    return Source(
        source.describe(), partial(load_rows, source), source.tokenizer_file,
        source.context_length, partial(keep_origin, origin_of(source)),
    )


def export_params(
    stage: Stage, config: Config, source: Any, params: Any, folder: str, *, dtype: str,
    tokenizer: Any,
) -> None:
    """Write parameters as a checkpoint, with what lay beside the one that they were made from."""
    from seq1f1b_jax.data.tokenizer import save_as_json
    from seq1f1b_jax.models.hf import export, kept_origin, origin_of
    from seq1f1b_jax.training.checkpoint.folder import committed_steps
    from seq1f1b_jax.training.job import SOURCE

    run = Path(config.train.output_dir)
    origin = kept_origin(run / SOURCE)
    if not committed_steps(run / "checkpoints"):  # else wherever the source is now
        origin = source and origin_of(source)
    seen = max(config.data.seq_len, (origin and origin.context_length) or 0)
    with TemporaryDirectory() as temporary:
        file = None if tokenizer is None else save_as_json(tokenizer, Path(temporary))
        export(
            params, stage, folder, dtype=dtype, tokenizer_file=file, origin=origin,
            context_length=seen, eos=tokenizer and tokenizer.eos, say=print,
        )


def check_export(config: Config) -> None:
    """Refuse to export a stage of one's own.

    Raises:
      UserError: it is one.
    """
    if config.model.stage is not None:
        raise UserError(
            f"export writes models of the families that transformers knows, and model.stage="
            f"{config.model.stage} is a class of your own; its parameters are Trainer.params() "
            "(docs/own_model.md)"
        )


def _vocab_size(source: str) -> int | None:
    """Tokens of the data's tokenizer: bytes, or that of a token folder; a `.bin` does not tell."""
    if source.endswith(".bin"):
        return None
    from seq1f1b_jax.data.folder import META, read_meta

    meta = Path(source, META)
    return read_meta(meta).vocab_size if meta.is_file() else BYTE_VOCABULARY
