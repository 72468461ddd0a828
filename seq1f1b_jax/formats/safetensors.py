"""Checkpoints as safetensors: one file, or several with an index, mapped into memory.

A file is an 8-byte little-endian length, that many bytes of JSON (name -> dtype, shape, offsets),
then the tensors. Read here instead of by the library of that name because its NumPy interface reads
whole tensors where a slice is wanted; the tests compare the two.

Source: https://github.com/huggingface/safetensors, section "Format".
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

import ml_dtypes
import numpy as np

from seq1f1b_jax.config import UserError
from seq1f1b_jax.formats.files import DAMAGED, TensorInfo, check_apart, file_size, tensor_bytes

DTYPES: Mapping[str, np.dtype] = MappingProxyType({
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2), "I64": np.dtype("<i8"), "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"), "I8": np.dtype("i1"), "U64": np.dtype("<u8"), "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"), "U8": np.dtype("u1"), "BOOL": np.dtype("?"),
})
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""The library's limit too: parsing a longer header would take as much memory as a model."""

MAX_DIMS = 32


@dataclass(frozen=True)
class TensorFiles:
    """The tensors of a checkpoint, not yet read.

    Attributes:
      tensors: description of each by name.
    """

    tensors: Mapping[str, TensorInfo]

    def read(self, name: str) -> np.ndarray:
        """A tensor as a read-only view of the mapped file: only bytes that are used are read."""
        info = self.tensors[name]
        return tensor_bytes(info).view(DTYPES[info.dtype]).reshape(info.shape)


def open_checkpoint(folder: Path | str) -> TensorFiles:
    """Headers of `model.safetensors`, or of the files that `model.safetensors.index.json` names.

    Args:
      folder: the checkpoint.

    Raises:
      UserError: no such file, one that contradicts its header, or both a single file and an index
        of others.
    """
    folder = Path(folder)
    if (folder / INDEX).is_file():
        return TensorFiles(_read_sharded(folder))
    if (folder / SINGLE).is_file():
        return TensorFiles(read_header(folder / SINGLE))
    pickled = ", ".join(sorted(path.name for path in folder.glob("pytorch_model*.bin"))[:1])
    have = f"; {pickled} is a pickle, which is never opened" if pickled else ""
    raise UserError(
        f"{folder} has neither {SINGLE} nor {INDEX}{have}: save the checkpoint as safetensors"
    )


def read_header(path: Path | str) -> dict[str, TensorInfo]:
    """Names, shapes, types and offsets of the tensors of one file, all checked.

    Raises:
      UserError: the file is cut short or contradicts its header.
    """
    path = Path(path)
    size = file_size(path)
    if size < 8:
        raise UserError(f"{path} has {size} bytes, a safetensors file at least 8; {DAMAGED}")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise UserError(
                f"{path}: the header says that it has {length} bytes, the file has {size - 8} and "
                f"a header at most {MAX_HEADER_BYTES}; {DAMAGED}"
            )
        header = parse_json(file.read(length), what=f"the header of {path}")
    header.pop("__metadata__", None)
    base = 8 + length
    tensors = {name: _describe(name, entry, base, path) for name, entry in header.items()}
    beyond = [name for name, info in tensors.items() if info.stop > size]
    if beyond:
        stop = tensors[beyond[0]].stop
        raise UserError(
            f"{path}: tensor {beyond[0]!r} ends at byte {stop} of a file of {size} bytes; {DAMAGED}"
        )
    check_apart(tensors.items(), path=path)
    return tensors


def parse_json(text: bytes, *, what: str) -> dict[str, Any]:
    """A JSON object without duplicate names.

    Raises:
      UserError: it is not one.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{what} is not JSON ({reason}); {DAMAGED}") from None
    if not isinstance(value, dict):
        raise UserError(f"{what} is a JSON {type(value).__name__}, not an object; {DAMAGED}")
    return value


def _unique(pairs):
    members = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"name {name!r} appears twice")
        members[name] = value
    return members


def _describe(name, entry, base, path) -> TensorInfo:
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (_are_counts(shape) and _are_counts(offsets) and len(offsets) == 2):
        raise UserError(
            f"{path}: tensor {name!r} has shape {_short(shape)} and offsets {_short(offsets)}, not "
            f"lists of non-negative integers; {DAMAGED}"
        )
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UserError(
            f"{path}: tensor {name!r} has the unknown dtype {_short(dtype)}; known are "
            f"{', '.join(DTYPES)}: convert the checkpoint to one of them"
        )
    # An empty tensor takes no bytes, whatever its other dims; NumPy has limits even then.
    if len(shape) > MAX_DIMS or math.prod(max(n, 1) for n in shape) >= 2**60:
        raise UserError(
            f"{path}: tensor {name!r} has shape {_short(shape)}, more than {MAX_DIMS} dims or "
            f"2**60 entries; {DAMAGED}"
        )
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != needed:
        raise UserError(
            f"{path}: tensor {name!r} of shape {shape} and dtype {dtype} takes {needed} bytes, its "
            f"offsets {offsets} hold {offsets[1] - offsets[0]}; {DAMAGED}"
        )
    return TensorInfo(tuple(shape), dtype, path, base + offsets[0], base + offsets[1])


def _are_counts(value) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _read_sharded(folder: Path) -> dict[str, TensorInfo]:
    file_of = parse_json((folder / INDEX).read_bytes(), what=str(folder / INDEX)).get("weight_map")
    if not isinstance(file_of, dict) or not all(isinstance(f, str) for f in file_of.values()):
        raise UserError(f"{folder / INDEX} has no weight_map from names to files; {DAMAGED}")
    files = sorted(set(file_of.values()))
    if (folder / SINGLE).is_file() and SINGLE not in files:
        some = ", ".join(files[:2]) + " ..." * (len(files) > 2)
        raise UserError(
            f"{folder} holds {SINGLE}, and {INDEX}, which names {len(files)} other files ({some}); "
            "they may be two models: remove the one that is not meant"
        )
    outside = [name for name in files if Path(name).name != name]
    if outside:
        raise UserError(f"{folder / INDEX} names {outside[0]!r}, a file outside of the folder")
    lost = [name for name in files if not (folder / name).is_file()]
    if lost:
        raise UserError(
            f"{folder / INDEX} names {len(files)} files and {len(lost)} are not there: "
            f"{', '.join(lost)}; get them too"
        )
    tensors = {}
    for name in files:
        for key, info in read_header(folder / name).items():
            if (indexed := file_of.get(key, name)) != name:
                raise UserError(
                    f"{folder / INDEX} places {key!r} in {indexed}, and {name} holds one too; "
                    "get the files again"
                )
            tensors[key] = info
    missing = sorted(file_of.keys() - tensors.keys())
    if missing:
        raise UserError(
            f"{folder / INDEX} places {len(missing)} tensors in files that do not hold them: "
            f"{', '.join(missing[:8])}{' ...' * (len(missing) > 8)}; {DAMAGED}"
        )
    return tensors
