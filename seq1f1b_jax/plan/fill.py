"""The sizes of the model that a configuration leaves to a preset, a checkpoint or the data."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from seq1f1b_jax.config import Config, resolve_model
from seq1f1b_jax.config.presets import preset_fields

BYTE_VOCABULARY = 256


def fill_model(config: Config, fields: Mapping[str, Any] | None = None) -> Config:
    """The sizes of the preset or the checkpoint, and those that follow from the data, filled in.

    Args:
      config: settings.
      fields: of the model in the checkpoint that the run starts from; it is what it is, whatever
        preset a recipe names.

    Example:
      >>> from seq1f1b_jax.config import Config, ModelConfig
      >>> model = fill_model(Config(model=ModelConfig(preset="7b"))).model
      >>> model.num_layers, model.vocab_size
      (32, 50304)
    """
    model, preset = config.model, fields
    if model.stage is not None:
        return config
    if fields is not None:
        model = replace(model, preset=None)
    if model.preset is not None:
        preset = preset_fields(model.family, model.preset)
    model = resolve_model(model, preset)
    if fields is None and config.model.vocab_size is None:  # a preset's may be too small
        data = config.data
        sources = [data.source] if data.sources is None else data.sources
        rows = (model.vocab_size, *map(_vocab_size, sources))
        model = replace(model, vocab_size=max(filter(None, rows), default=None))
    if model.max_positions is None:
        model = replace(model, max_positions=config.data.seq_len)
    if model.rope.type in ("longrope", "dynamic") and model.rope.length is None:
        model = replace(model, rope=replace(model.rope, length=config.data.seq_len))
    return replace(config, model=model)


def _vocab_size(source: str) -> int | None:
    """Of the data's tokenizer: bytes, or that of a token folder; unknown for a `.bin`."""
    from seq1f1b_jax.data.folder import META, read_meta  # a search asks for no data

    if source.endswith(".bin"):
        return None
    meta = Path(source, META)
    return read_meta(meta).vocab_size if meta.is_file() else BYTE_VOCABULARY
