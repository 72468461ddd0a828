"""One checkpoint on disk: a folder that exists only when it is whole, and shows when it is not.

    checkpoints/
      000100/             committed: 100 steps are finished
        state/            the arrays, written by Orbax into a store of TensorStore
        meta.json         shapes and types of the arrays, and what the caller stored with them
        files.json        size and CRC-32 of every file above
      000150.saving/      a save under way, or what a killed one left
      000050.deleting/    likewise
      000100.replaced/    an older checkpoint of the same step, gone once its successor is in place

A checkpoint is written as `.saving`, hashed, flushed to the disk and then renamed, so a process
killed at any moment leaves either the whole of it or none. Orbax notices truncated files and
damaged indices by itself, but not a flipped bit in the values of an array (tried on every file of
a small checkpoint: 102 of 120 flips in value files loaded silently), hence files.json.
"""

import errno
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seq1f1b_jax.config import UserError
from seq1f1b_jax.host.files import flush_to_disk

CHECKPOINTS = "checkpoints"
"""In the folder of a run, where these are."""

STATE = "state"
META = "meta.json"
FILES = "files.json"
SAVING, DELETING, REPLACED = ".saving", ".deleting", ".replaced"
BLOCK_BYTES = 1 << 22


def folder_of(directory: Path, step: int) -> Path:
    """Where the checkpoint of `step` is once it is committed."""
    return directory / f"{step:06d}"


def committed_steps(directory: Path) -> tuple[int, ...]:
    """Steps that have a committed folder, ascending; damage is not looked for."""
    if not directory.is_dir():
        return ()
    names = (path.name for path in directory.iterdir())
    return tuple(sorted(int(name) for name in names if re.fullmatch(r"\d{6,}", name)))


def seal(folder: Path, meta: Mapping[str, Any]) -> None:
    """Write `meta.json` and `files.json` beside the arrays and flush everything to the disk."""
    (folder / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")
    files = {path.relative_to(folder).as_posix(): _size_and_crc(path) for path in _files(folder)}
    (folder / FILES).write_text(json.dumps(files, indent=1), encoding="utf-8")
    for path in [*_files(folder), *(path for path in folder.rglob("*") if path.is_dir()), folder]:
        flush_to_disk(path)


def commit(saved: Path, target: Path) -> None:
    """Give a sealed folder its final name; an older checkpoint of that name goes last."""
    replaced = target.with_name(target.name + REPLACED)
    if target.exists():
        os.rename(target, replaced)
    os.rename(saved, target)
    flush_to_disk(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def remove(folder: Path) -> None:
    """Delete a committed checkpoint; it loses its name first, so no half of it is ever found."""
    doomed = folder.with_name(folder.name + DELETING)
    os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def clean_up(directory: Path) -> None:
    """Finish or undo what a killed process left. Only for the one process that writes here."""
    for path in sorted(directory.iterdir()):
        target = path.with_suffix("")
        if path.suffix == REPLACED and not target.exists():
            os.rename(path, target)
        elif path.suffix in (SAVING, DELETING, REPLACED):
            clear(path)


def clear(path: Path) -> None:
    """Delete a folder, a file, or a link but not its target, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def damage(folder: Path) -> str | None:
    """What is wrong with a committed checkpoint, or None: every byte is read and compared.

    Raises:
      UserError: it cannot be read, which may pass.
    """
    try:
        there = {path.relative_to(folder).as_posix() for path in _files(folder)}
        expected = json.loads((folder / FILES).read_text(encoding="utf-8"))
        for name, (size, crc) in expected.items():
            if name not in there:
                return f"{name} is missing"
            found = _size_and_crc(folder / name)
            if found[0] != size:
                return f"{name} has {found[0]} bytes, {size} were written"
            if found[1] != crc:
                return f"{name} is not what was written: CRC-32 {found[1]:08x}, was {crc:08x}"
    except OSError as error:
        if error.errno != errno.ENOENT and folder.is_dir():
            raise UserError(
                f"cannot read the checkpoint {folder} ({error.strerror}); give the command again, "
                "or move it away to continue from the one before"
            ) from error
        return f"{Path(error.filename or folder).name}: {error.strerror}"
    except (ValueError, TypeError, AttributeError, RecursionError):  # no JSON, or of another shape
        return f"{FILES} is unreadable"
    return None if {META} < expected.keys() else f"{FILES} is incomplete"


def read_meta(folder: Path) -> Any:
    """What `seal` stored in `meta.json`."""
    return json.loads((folder / META).read_text(encoding="utf-8"))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _size_and_crc(path: Path) -> tuple[int, int]:
    size = crc = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc
