"""The files that were asked for, and what they hold."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.text import folder_files, stdlib_files, unreadable

TEXT, JSONL, PARQUET = "text", "jsonl", "parquet"
KINDS = {".jsonl": JSONL, ".ndjson": JSONL, ".parquet": PARQUET}  # all others are text
COMPRESSED = (".gz", ".zst", ".xz", ".bz2", ".zip")


class InputFile(NamedTuple):
    """One file.

    Attributes:
      path: where it is.
      kind: `text`, `jsonl` or `parquet`.
      num_bytes: its size.
      changed: time of its last change in nanoseconds.
    """

    path: Path
    kind: str
    num_bytes: int
    changed: int


def find_files(
    sources: Sequence[str], *, extensions: Sequence[str] = (), leave_out: Sequence[Path] = ()
) -> list[InputFile]:
    """The files of all sources, in the order of the sources, folders by relative path.

    Args:
      sources: files, folders (searched recursively, hidden names left out), or `stdlib`.
      extensions: of folders only the files whose names end so, such as `.txt`; none: all.
      leave_out: folders whose files do not count, such as what is made of the others.

    Raises:
      UserError: a source that is missing, unreadable, compressed or given twice, or a folder
        without such files.
    """
    paths = [path for source in sources for path in _files_of(source, tuple(extensions))]
    outside = [folder.resolve() for folder in leave_out]
    paths = [path for path in paths if not any(map(path.resolve().is_relative_to, outside))]
    once = {path.resolve() for path in paths}
    if len(once) < len(paths):
        raise UserError(
            f"{len(paths)} files were given and {len(once)} are different; give each source once"
        )
    return [_examine(path) for path in paths]


def _files_of(source: str, extensions: tuple[str, ...]) -> Iterable[Path]:
    if source == "stdlib":
        return stdlib_files()
    if not Path(source).is_dir():
        return [Path(source)]
    files = folder_files(Path(source))
    chosen = [path for path in files if not extensions or path.name.endswith(extensions)]
    if not chosen:
        raise UserError(
            f"none of the {len(files)} files in {source} ends with {' or '.join(extensions)}; "
            "correct --extensions"
        )
    return chosen


def _examine(path: Path) -> InputFile:
    if path.suffix in COMPRESSED:
        raise UserError(f"{path} is compressed; unpack it first")
    try:
        with path.open("rb"):
            status = path.stat()
    except OSError as error:
        raise unreadable(path, error) from error
    kind = KINDS.get(path.suffix, TEXT)
    return InputFile(path, kind, status.st_size, status.st_mtime_ns)
