"""Files that appear whole or not at all."""

import os
from pathlib import Path

from seq1f1b_jax.paths import one_line


def write_file(path: str | Path, content: bytes) -> None:
    """Write a file under a temporary name beside it, then rename it.

    Args:
      path: of the file; an older one is replaced.
      content: all of it.

    Raises:
      ValueError: the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        folder, name = one_line(path.parent), one_line(path.name)
        raise ValueError(f"folder {folder} of {name} does not exist; create it first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
