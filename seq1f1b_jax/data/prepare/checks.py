"""Settings that say nothing about the sources at hand are refused, not ignored."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.prepare.readers.sources import KEYED, TEXT, InputFile


def check_sources(sources: Sequence[str], *, extensions: Sequence[str]) -> None:
    """Refuse endings where no source is a folder.

    Raises:
      UserError: there is none.
    """
    if extensions and not any(source != "stdlib" and Path(source).is_dir() for source in sources):
        raise UserError(
            f"--extensions {','.join(extensions)} chooses among files of folders, and no source is "
            "one; leave it out"
        )


def check_kinds(files: Sequence[InputFile], *, key: str | None, separator: str | None) -> None:
    """Refuse settings of records without a file of records, and of text without a text file.

    Raises:
      UserError: a setting that applies to none of the files.

    Example:
      >>> from pathlib import Path
      >>> from seq1f1b_jax.data.prepare.checks import check_kinds
      >>> from seq1f1b_jax.data.prepare.readers.sources import InputFile
      >>> check_kinds([InputFile(Path("a.csv"), "csv", 9, 0)], key="body", separator=None)
    """
    kinds = {file.kind for file in files}
    shown = f"{files[0].path}" if len(files) == 1 else f"all {len(files)} files"
    verb = "is" if len(files) == 1 else "are"
    if key is not None and not kinds & set(KEYED):
        raise UserError(
            f"--key {key} names a field of JSON lines, JSON, CSV or parquet, and {shown} {verb} "
            "text by name; leave it out, or give a file its right ending"
        )
    if separator is not None and TEXT not in kinds:
        raise UserError(
            f"--split-documents-on {separator} is for text, and {shown} {verb} "
            f"{' and '.join(sorted(kinds))}; leave it out"
        )


def told_left_out(left_out: Mapping[str, int]) -> str | None:
    """One line about what was not taken from folders; None: everything was.

    Example:
      >>> from seq1f1b_jax.data.prepare.checks import told_left_out
      >>> told_left_out({"hidden file": 2, "other ending": 1})
      'not taken from folders: 2 x hidden file, 1 x other ending'
    """
    parts = [f"{count:,} x {reason}" for reason, count in left_out.items() if count]
    return f"not taken from folders: {', '.join(parts)}" if parts else None
