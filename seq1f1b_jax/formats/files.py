"""What the readers of both formats share: a tensor's description and its location in a file."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seq1f1b_jax.config import UserError

DAMAGED = "the file is damaged or cut short: get it again"


@dataclass(frozen=True)
class TensorInfo:
    """A tensor that is stored in a file.

    Attributes:
      shape: its dims.
      dtype: its type as named in the file, such as `BF16` or `Q4_1`.
      file: where it is stored.
      start: its first byte, counted from the start of the file.
      stop: the byte after its last.
    """

    shape: tuple[int, ...]
    dtype: str
    file: Path
    start: int
    stop: int


def file_size(path: Path) -> int:
    """Bytes of a file that must exist."""
    if not path.is_file():
        raise UserError(f"{path} is not a file; give the path of an existing one")
    return path.stat().st_size


def tensor_bytes(info: TensorInfo) -> np.ndarray:
    """The tensor's bytes as uint8, mapped but not read."""
    if info.stop == info.start:
        return np.empty(0, np.uint8)
    count = info.stop - info.start
    return np.asarray(np.memmap(info.file, np.uint8, "r", offset=info.start, shape=(count,)))


def check_apart(tensors: Iterable[tuple[str, TensorInfo]], *, path: Path) -> None:
    """Check that no two tensors share a byte.

    Raises:
      UserError: two do; it names them and the bytes.
    """
    ordered = sorted(tensors, key=lambda item: (item[1].start, item[1].stop))
    for (name, one), (other, two) in zip(ordered, ordered[1:], strict=False):
        if two.start < one.stop:
            raise UserError(
                f"{path}: tensors {name!r} and {other!r} overlap (bytes {one.start}-{one.stop} and "
                f"{two.start}-{two.stop}); {DAMAGED}"
            )
