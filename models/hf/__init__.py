"""Checkpoints of the Hugging Face ecosystem and GGUF files: read as parameters, and written back.

Example:
  >>> import pathlib, tempfile
  >>> import jax
  >>> from seq1f1b_jax.models import build_stage
  >>> from seq1f1b_jax.models.hf import export, load_canonical, origin_of, read_source
  >>> folder = pathlib.Path(tempfile.mkdtemp())
  >>> stage = build_stage("llama", preset="tiny", vocab_size=8)
  >>> theirs = export(stage.init(jax.random.key(0)), stage, folder / "theirs")
  >>> source = read_source(theirs)
  >>> stage = build_stage(**source.fields)
  >>> params = load_canonical(source, stage)
  >>> export(params, stage, folder / "ours", dtype="bfloat16", origin=origin_of(source)).name
  'ours'
"""

from seq1f1b_jax.models.hf.export import export
from seq1f1b_jax.models.hf.load import load_canonical, load_params, load_rows
from seq1f1b_jax.models.hf.origin import Origin, keep_origin, kept_origin, origin_of
from seq1f1b_jax.models.hf.source import Source, read_source

__all__ = [
    "Origin", "Source", "export", "keep_origin", "kept_origin", "load_canonical", "load_params",
    "load_rows", "origin_of", "read_source",
]
