"""Writing safetensors, one tensor in memory at a time: a single file, or shards and an index.

An export is a folder of them, which is there complete or not at all.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import numpy as np

from seq1f1b_jax.config import UserError
from seq1f1b_jax.formats.safetensors import DTYPES, INDEX, SINGLE

Shapes = Mapping[str, tuple[int, ...]]
KINDS: Mapping[str, str] = MappingProxyType({"float32": "F32", "bfloat16": "BF16"})
"""Of an export, by the names of their dtypes."""


def write_checkpoint(
    folder: Path,
    shapes: Shapes,
    get: Callable[[str], np.ndarray],
    *,
    dtype: str,
    max_shard_bytes: int = 5 * 10**9,
) -> list[Path]:
    """Write tensors of one dtype into an existing folder, in the order of `shapes`.

    Args:
      folder: where to write `model.safetensors`, or shards and `model.safetensors.index.json`.
      shapes: shape of every tensor by name.
      get: returns the tensor of a name, to be converted to `dtype`; called once for each.
      dtype: a key of `DTYPES`, such as `BF16`.
      max_shard_bytes: limit for the tensors of one file; a larger tensor gets its own file.

    Returns:
      The files that hold the tensors.
    """
    shards = _shards(shapes, dtype=dtype, max_bytes=max_shard_bytes)
    if len(shards) == 1:
        names = [SINGLE]
    else:
        names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        write_file(Path(folder) / name, shard, get, dtype=dtype)
    if len(shards) > 1:
        file_of = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        total = sum(_num_bytes(shape, dtype) for shape in shapes.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(file_of.items()))}
        (Path(folder) / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [Path(folder) / name for name in names]


def write_file(path: Path, shapes: Shapes, get: Callable[[str], np.ndarray], *, dtype: str) -> None:
    """Write one file, with the header padded so that the tensors begin at a multiple of 8 bytes."""
    header, stop = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        start, stop = stop, stop + _num_bytes(shape, dtype)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name, shape in shapes.items():
            tensor = np.asarray(get(name), DTYPES[dtype], order="C")
            assert tensor.shape == tuple(shape), (name, tensor.shape, shape)
            file.write(tensor.reshape(-1).view(np.uint8).data)


@contextmanager
def new_folder(folder: Path, *, dtype: str) -> Iterator[Path]:
    """A folder to write an export of a dtype into, which gets its name once it is complete.

    Raises:
      UserError: the name is taken, it cannot be written, or there is no such dtype.
    """
    check_new(folder, dtype)
    try:
        with _renamed_when_whole(folder) as inner:
            yield inner
    except OSError as error:
        raise UserError(
            f"cannot write {folder} ({error.strerror or error}); nothing of it is kept: free "
            "space, or give the name of a folder that this user may write"
        ) from error


def check_new(folder: Path, dtype: str) -> None:
    """Refuse a name that is taken, or a dtype that no export has.

    Raises:
      UserError: it is.
    """
    if folder.exists():
        raise UserError(f"{folder} exists; nothing is overwritten: give the name of a new folder")
    if dtype not in KINDS:
        raise UserError(f"unknown dtype {dtype!r} for an export; use one of {', '.join(KINDS)}")


@contextmanager
def _renamed_when_whole(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that is renamed to it at the end, or removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        inner = Path(temporary) / folder.name
        inner.mkdir()
        yield inner
        os.rename(inner, folder)


def _shards(shapes: Shapes, *, dtype: str, max_bytes: int) -> list[dict[str, tuple[int, ...]]]:
    shards, room = [{}], max_bytes
    for name, shape in shapes.items():
        size = _num_bytes(shape, dtype)
        if size > room and shards[-1]:
            shards.append({})
            room = max_bytes
        shards[-1][name] = shape
        room -= size
    return shards


def _num_bytes(shape, dtype: str) -> int:
    return math.prod(shape) * DTYPES[dtype].itemsize
