"""The input files, and what they hold according to their names."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.readers.hub import WHOLE, HubSet, is_hub, look_up
from seq1f1b_jax.data.prepare.readers.saved import saved_files
from seq1f1b_jax.data.prepare.readers.streams import COMPRESSIONS, check_readable
from seq1f1b_jax.data.text import real_path, stdlib_files, walk_folder

TEXT, JSONL, JSON, CSV, PARQUET = "text", "jsonl", "json", "csv", "parquet"
ARROW, HUB = "arrow", "a data set of the Hub"
KEYED = (JSONL, JSON, CSV, PARQUET, ARROW, HUB)  # the text is one field of each record
KINDS: Mapping[str, str] = {  # by lower-case suffix; all others are text
    ".jsonl": JSONL, ".ndjson": JSONL, ".jsonlines": JSONL, ".json": JSON,
    ".csv": CSV, ".tsv": CSV, ".parquet": PARQUET, ".arrow": ARROW,
}
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".tzst", ".7z", ".rar")
UNREAD_COMPRESSIONS = (".lz4", ".br", ".z", ".lzma", ".sz")
OTHER_ENDING = "other ending"


class InputFile(NamedTuple):
    """One file.

    Attributes:
      path: where it is.
      kind: one of those above.
      num_bytes: its size.
      changed: modification time in nanoseconds.
      compression: `gz`, `bz2`, `xz` or `zst`; empty: none.
      hub: the data set of the Hub that it is instead; `path` only names it.
    """

    path: Path
    kind: str
    num_bytes: int
    changed: int
    compression: str = ""
    hub: HubSet | None = None


class Found(NamedTuple):
    """Files, and the number left out of folders, by reason."""

    files: list[InputFile]
    left_out: Mapping[str, int]


def find_files(
    sources: Sequence[str], *, extensions: Sequence[str] = (), leave_out: Sequence[Path] = (),
    hub: HubSet = WHOLE,
) -> Found:
    """The files of all sources in order, those of a folder by relative path, the Hub's last.

    Args:
      sources: files, folders (searched recursively, hidden names left out), `stdlib`, or data sets
        of the Hub.
      extensions: take only files of folders with these extensions, such as `.txt`; empty: all.
      leave_out: folders whose files are ignored, such as the output.
      hub: what to take of data sets of the Hub.

    Raises:
      UserError: a source that is missing, unreadable, in an unknown compression or given twice, or
        a folder without such files.
    """
    left_out: Counter[str] = Counter()
    local = [source for source in sources if not is_hub(source)]
    paths = [path for source in local for path in _files_of(source, extensions, left_out)]
    outside = [real_path(folder) for folder in leave_out]
    paths = [path for path in paths if not any(map(real_path(path).is_relative_to, outside))]
    streamed = [look_up(source, hub) for source in sources if is_hub(source)]
    once = {real_path(path) for path in [*paths, *(one.path for one in streamed)]}
    if len(once) < len(paths) + len(streamed):
        raise UserError(
            f"{len(paths) + len(streamed)} files were given and {len(once)} are different; give "
            "each source once"
        )
    sets = [InputFile(one.path, HUB, 0, 0, hub=one) for one in streamed]
    return Found([*map(_examine, paths), *sets], left_out)


def kind_of(path: Path) -> tuple[str, str]:
    """Kind and compression of a file, by its name, regardless of case.

    Raises:
      UserError: an archive, or an unknown compression.

    Example:
      >>> from pathlib import Path
      >>> from seq1f1b_jax.data.prepare.readers.sources import kind_of
      >>> kind_of(Path("a.JSONL.gz")), kind_of(Path("a.md"))
      (('jsonl', 'gz'), ('text', ''))
    """
    suffix = path.suffix.lower()
    compression = COMPRESSIONS.get(suffix, "")
    inner = Path(path.stem).suffix.lower() if compression else suffix
    if inner in ARCHIVES:
        raise UserError(f"{path} is an archive; unpack it and give the folder")
    if inner in UNREAD_COMPRESSIONS:
        known = ", ".join(COMPRESSIONS)
        raise UserError(f"{path} is compressed, and {known} are read; unpack it first")
    kind = KINDS.get(inner, TEXT)
    if kind in (PARQUET, ARROW) and compression:
        raise UserError(f"{path}: {kind} is compressed inside, not around; unpack it first")
    return kind, compression


def _files_of(
    source: str, extensions: Sequence[str], left_out: Counter[str]
) -> Iterable[Path]:
    if source == "stdlib":
        return stdlib_files()
    if not Path(source).is_dir():
        return [Path(source)]
    if (saved := saved_files(Path(source))) is not None:
        return saved
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
    kind, compression = kind_of(path)
    status = check_readable(path, compression)
    return InputFile(path, kind, status.st_size, status.st_mtime_ns, compression)
