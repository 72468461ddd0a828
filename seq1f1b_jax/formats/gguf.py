"""GGUF files: metadata, and tensors dequantised to float32.

The header is parsed here, so that every count and length is compared with the bytes that are left
before it is used; dequantisation is left to the package `gguf`.

Source: https://github.com/ggml-org/ggml, docs/gguf.md.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seq1f1b_jax.config import UserError
from seq1f1b_jax.formats.files import DAMAGED, TensorInfo, check_apart, file_size, tensor_bytes

# Type code of a metadata value -> its format in `struct`; text and lists are handled apart.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
            12: "d"}
_TEXT, _LIST = 8, 9
_MAX_DIMS = 4
_DEEPEST_LIST = 8


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file whose header was read and checked.

    Attributes:
      metadata: numbers, texts, booleans and lists of them, by name.
      tensors: description of each tensor by name; dims from the slowest to the fastest.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        info = self.tensors[name]
        kind = GGMLQuantizationType[info.dtype]
        if kind == GGMLQuantizationType.F64:
            return tensor_bytes(info).view("<f8").reshape(info.shape).astype(np.float32)
        rows = tensor_bytes(info).reshape(*info.shape[:-1], -1)
        return np.asarray(dequantize(rows, kind), np.float32).reshape(info.shape)


def open_gguf(path: Path | str) -> GgufFile:
    """Read a file's header, and those of the files that hold the rest of its tensors.

    Args:
      path: a `.gguf` file of version 2 or 3, little-endian; of several, the first.

    Raises:
      UserError: a file is cut short or contradicts its header, one of several is missing or
        another was named than the first, or the package `gguf` is not installed.
    """
    path = Path(path)
    whole = _open_one(path)
    count = whole.metadata.get("split.count", 0)
    if type(count) is not int or count < 2:
        return whole
    first, *others = _parts(path, whole.metadata)
    tensors = dict(whole.tensors)
    for number, other in enumerate(others, 1):
        if not other.is_file():
            raise UserError(
                f"{first} is one of {count} files, and {other} is missing; get all of them"
            )
        part = _open_one(other)
        if (part.metadata.get("split.no"), part.metadata.get("split.count")) != (number, count):
            raise UserError(f"{other} is not part {number} of {count} of {first}; {DAMAGED}")
        twice = tensors.keys() & part.tensors.keys()
        if twice:
            raise UserError(f"{other}: tensor {min(twice)!r} is in another file, too; {DAMAGED}")
        tensors |= part.tensors
    total = whole.metadata.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise UserError(f"{first} and its parts hold {len(tensors)} tensors of {total}; {DAMAGED}")
    return GgufFile(whole.metadata, tensors)


def _parts(path: Path, metadata: Mapping[str, Any]) -> list[Path]:
    """All files of a model in several, by their numbers."""
    number, count = metadata.get("split.no", 0), metadata["split.count"]
    ending = f"-{number + 1:05d}-of-{count:05d}.gguf"
    if not path.name.endswith(ending):
        raise UserError(
            f"{path} is part {number + 1} of {count}, and its name does not end with {ending}, so "
            "the others cannot be found: give it that name"
        )
    stem = path.name.removesuffix(ending)
    parts = [path.with_name(f"{stem}-{i + 1:05d}-of-{count:05d}.gguf") for i in range(count)]
    if number:
        raise UserError(f"{path} is part {number + 1} of {count}; give the first one, {parts[0]}")
    return parts


def _open_one(path: Path) -> GgufFile:
    block_sizes = _block_sizes()
    size = file_size(path)
    if size < 24:
        raise UserError(f"{path} has {size} bytes, a GGUF file at least 24; {DAMAGED}")
    walk = _Walk(memoryview(np.memmap(path, np.uint8, mode="r")), path)
    num_tensors, num_values = _read_start(walk)
    metadata = _read_metadata(walk, num_values)
    entries = [_read_entry(walk) for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0 or alignment % 8:
        raise UserError(
            f"{path}: general.alignment={alignment!r} is not a positive multiple of 8; {DAMAGED}"
        )
    base = -(-walk.position // alignment) * alignment
    tensors = {}
    for name, dims, code, offset in entries:
        if name in tensors:
            raise UserError(f"{path}: tensor {name!r} appears twice; {DAMAGED}")
        if offset % alignment:
            raise UserError(
                f"{path}: tensor {name!r} has offset {offset}, not a multiple of {alignment}; "
                f"{DAMAGED}"
            )
        tensors[name] = _describe(name, dims, code, base + offset, path, size, block_sizes)
    check_apart(tensors.items(), path=path)
    return GgufFile(metadata, tensors)


def _block_sizes():
    try:
        from gguf import GGML_QUANT_SIZES
    except ImportError:
        raise UserError(
            "reading a GGUF file needs the package gguf, which is not installed: pip install gguf"
        ) from None
    return {int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}


class _Walk:
    """A position in the file that advances with every value read, and never beyond the end."""

    def __init__(self, data: memoryview, path: Path):
        self.data, self.path, self.position = data, path, 0

    def bytes(self, count: int, what: str) -> bytes:
        left = len(self.data) - self.position
        if count > left:
            raise UserError(
                f"{self.path}: {what} takes {count} bytes at byte {self.position}, where {left} "
                f"are left; {DAMAGED}"
            )
        self.position += count
        return bytes(self.data[self.position - count : self.position])

    def number(self, form: str, what: str):
        return struct.unpack("<" + form, self.bytes(struct.calcsize("<" + form), what))[0]

    def text(self, what: str) -> str:
        raw = self.bytes(self.number("Q", what), what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: {what} is not UTF-8 ({error}); {DAMAGED}") from None

    def count(self, least_bytes: int, what: str) -> int:
        """A number of items of at least `least_bytes` each, all of which must still fit."""
        count = self.number("Q", what)
        left = len(self.data) - self.position
        if count * least_bytes > left:
            raise UserError(
                f"{self.path}: the header says {count} {what}, at least {count * least_bytes} "
                f"bytes, where {left} are left; {DAMAGED}"
            )
        return count


def _read_start(walk: _Walk) -> tuple[int, int]:
    magic = walk.bytes(4, "magic")
    if magic != b"GGUF":
        raise UserError(f"{walk.path} begins with {magic!r}, not b'GGUF'; it is another format")
    version = walk.number("I", "version")
    if version not in (2, 3):
        raise UserError(
            f"{walk.path}: GGUF version {version}; 2 and 3, little-endian, can be read: convert it "
            "again with a current tool"
        )
    num_tensors = walk.count(8 + 4 + 8 + 4 + 8, "tensors")
    return num_tensors, walk.count(8 + 4 + 1, "metadata values")


def _read_metadata(walk: _Walk, count: int) -> dict[str, Any]:
    metadata = {}
    for _ in range(count):
        name = walk.text("a metadata name")
        if name in metadata:
            raise UserError(f"{walk.path}: metadata {name!r} appears twice; {DAMAGED}")
        metadata[name] = _read_value(walk, walk.number("I", f"type of {name!r}"), name)
    return metadata


def _read_value(walk: _Walk, kind: int, name: str, depth: int = 0):
    if kind in _SCALARS:
        return walk.number(_SCALARS[kind], f"metadata {name!r}")
    if kind == _TEXT:
        return walk.text(f"metadata {name!r}")
    if kind != _LIST or depth == _DEEPEST_LIST:
        raise UserError(
            f"{walk.path}: metadata {name!r} has type {kind} in {depth} lists, which is none; "
            f"{DAMAGED}"
        )
    kind = walk.number("I", f"type of {name!r}")
    if kind in _SCALARS:
        dtype = np.dtype(_SCALARS[kind]).newbyteorder("<")
        count = walk.count(dtype.itemsize, f"entries of {name!r}")
        return np.frombuffer(walk.bytes(count * dtype.itemsize, name), dtype).tolist()
    count = walk.count(8, f"entries of {name!r}")
    return [_read_value(walk, kind, name, depth + 1) for _ in range(count)]


def _read_entry(walk: _Walk) -> tuple[str, tuple[int, ...], int, int]:
    name = walk.text("a tensor's name")
    num_dims = walk.number("I", f"dims of tensor {name!r}")
    if not 1 <= num_dims <= _MAX_DIMS:
        raise UserError(
            f"{walk.path}: tensor {name!r} has {num_dims} dims, a GGUF tensor 1 to {_MAX_DIMS}; "
            f"{DAMAGED}"
        )
    dims = [walk.number("Q", f"dims of tensor {name!r}") for _ in range(num_dims)]
    if 0 in dims:
        raise UserError(f"{walk.path}: tensor {name!r} has a dim of 0 in {dims}; {DAMAGED}")
    code = walk.number("I", f"type of tensor {name!r}")
    return name, tuple(reversed(dims)), code, walk.number("Q", f"offset of tensor {name!r}")


def _describe(name, shape, code, start, path, size, block_sizes) -> TensorInfo:
    if code not in block_sizes:
        raise UserError(
            f"{path}: tensor {name!r} has type {code}, which the package gguf does not know; "
            "upgrade gguf, or use a file of another quantisation"
        )
    kind, block, block_bytes = block_sizes[code]
    if shape[-1] % block:
        raise UserError(
            f"{path}: tensor {name!r} has rows of {shape[-1]}, not a multiple of the {block} of "
            f"{kind}; {DAMAGED}"
        )
    stop = start + math.prod(shape) // block * block_bytes
    if stop > size:
        raise UserError(
            f"{path}: tensor {name!r} ends at byte {stop} of a file of {size} bytes; {DAMAGED}"
        )
    return TensorInfo(shape, kind, path, start, stop)
