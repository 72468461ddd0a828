"""The files that were asked for, and what they hold by their names."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.readers.streams import PACKINGS, check_readable
from seq1f1b_jax.data.text import real_path, stdlib_files, walk_folder

TEXT, JSONL, JSON, CSV, PARQUET = "text", "jsonl", "json", "csv", "parquet"
KEYED = (JSONL, JSON, CSV, PARQUET)  # the text is a field of each record
KINDS: Mapping[str, str] = {  # by suffix, in lower case; all others are text
    ".jsonl": JSONL, ".ndjson": JSONL, ".jsonlines": JSONL, ".json": JSON,
    ".csv": CSV, ".tsv": CSV, ".parquet": PARQUET,
}
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tzst", ".7z", ".rar")
OTHER_PACKINGS = (".lz4", ".br", ".z", ".lzma", ".sz")
OTHER_ENDING = "other ending"


class InputFile(NamedTuple):
    """One file.

    Attributes:
      path: where it is.
      kind: `text`, `jsonl`, `json`, `csv` or `parquet`.
      num_bytes: its size.
      changed: time of its last change in nanoseconds.
      packing: `gz`, `bz2`, `xz` or `zst`; empty: none.
    """

    path: Path
    kind: str
    num_bytes: int
    changed: int
    packing: str = ""


class Found(NamedTuple):
    """The files, and how often each reason to leave one out was met in folders."""

    files: list[InputFile]
    left_out: Mapping[str, int]


def find_files(
    sources: Sequence[str], *, extensions: Sequence[str] = (), leave_out: Sequence[Path] = ()
) -> Found:
    """The files of all sources, in the order of the sources, folders by relative path.

    Args:
      sources: files, folders (searched recursively, hidden names left out), or `stdlib`.
      extensions: of folders only the files whose names end so, such as `.txt`; none: all.
      leave_out: folders whose files do not count, such as what is made of the others.

    Raises:
      UserError: a source that is missing, unreadable, packed in a way that is not read here or
        given twice, or a folder without such files.
    """
    left_out: Counter[str] = Counter()
    paths = [path for source in sources for path in _files_of(source, extensions, left_out)]
    outside = [real_path(folder) for folder in leave_out]
    paths = [path for path in paths if not any(map(real_path(path).is_relative_to, outside))]
    once = {real_path(path) for path in paths}
    if len(once) < len(paths):
        raise UserError(
            f"{len(paths)} files were given and {len(once)} are different; give each source once"
        )
    return Found([_examine(path) for path in paths], left_out)


def kind_of(path: Path) -> tuple[str, str]:
    """What a file holds and how it is packed, by its name; the case of letters does not matter.

    Raises:
      UserError: an archive, or packed in a way that is not read here.

    Example:
      >>> from pathlib import Path
      >>> from seq1f1b_jax.data.prepare.readers.sources import kind_of
      >>> kind_of(Path("a.JSONL.gz")), kind_of(Path("a.md"))
      (('jsonl', 'gz'), ('text', ''))
    """
    suffix = path.suffix.lower()
    packing = PACKINGS.get(suffix, "")
    inner = Path(path.stem).suffix.lower() if packing else suffix
    if inner in ARCHIVES:
        raise UserError(f"{path} is an archive; unpack it and give the folder")
    if inner in OTHER_PACKINGS:
        known = ", ".join(PACKINGS)
        raise UserError(f"{path} is compressed, and {known} are read; unpack it first")
    kind = KINDS.get(inner, TEXT)
    if kind == PARQUET and packing:
        raise UserError(f"{path}: parquet is compressed inside, not around; unpack it first")
    return kind, packing


def _files_of(
    source: str, extensions: Sequence[str], left_out: Counter[str]
) -> Iterable[Path]:
    if source == "stdlib":
        return stdlib_files()
    if not Path(source).is_dir():
        return [Path(source)]
    found = walk_folder(Path(source))
    endings = tuple(extension.lower() for extension in extensions)
    chosen = [path for path in found.files if not endings or path.name.lower().endswith(endings)]
    if not chosen:
        raise UserError(
            f"none of the {len(found.files)} files in {source} ends with "
            f"{' or '.join(extensions)}; correct --extensions"
        )
    left_out.update(found.left_out)
    left_out.update({OTHER_ENDING: len(found.files) - len(chosen)})
    return chosen


def _examine(path: Path) -> InputFile:
    kind, packing = kind_of(path)
    status = check_readable(path, packing)
    return InputFile(path, kind, status.st_size, status.st_mtime_ns, packing)
