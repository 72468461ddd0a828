"""Files that are read as they are: those of records, or compressed, are not their text."""

from pathlib import Path

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.folder import UNFINISHED
from seq1f1b_jax.data.prepare.readers.sources import TEXT, kind_of
from seq1f1b_jax.data.text import folder_files


def plain_file(source: str) -> Path:
    """A file, unless it holds records or is compressed.

    Raises:
      UserError: it does, or is.

    Example:
      >>> from seq1f1b_jax.data.plain import plain_file
      >>> plain_file("book.txt").name
      'book.txt'
    """
    if _is_plain(Path(source)) or not Path(source).is_file():  # if missing, reading it says so
        return Path(source)
    kind = " in ".join(filter(None, kind_of(Path(source))))
    raise _records(source, f"is {kind} by its name")


def plain_files(source: str) -> list[Path]:
    """The files of a folder, unless all of them are records or compressed.

    Raises:
      UserError: they are, or `prepare` has not finished the folder.
    """
    if source.endswith(UNFINISHED):
        raise UserError(
            f"data.source={source} is the unfinished result of a prepare that was stopped; run the "
            f"same command again and set data.source={source.removesuffix(UNFINISHED)}"
        )
    files = folder_files(Path(source))
    if not any(map(_is_plain, files)):
        raise _records(source, "holds only records or compressed files, by their names")
    return files


def _is_plain(path: Path) -> bool:
    kind, compression = kind_of(path)
    return kind == TEXT and not compression


def _records(source: str, what: str) -> UserError:
    return UserError(
        f"data.source={source} {what}, and only text is read here; tokenize it with python -m "
        f"seq1f1b_jax.data prepare {source} --to FOLDER, and set data.source to that folder"
    )
