"""Files of text: found in folders, read, and known to be UTF-8."""

import codecs
import os
import sysconfig
from collections.abc import Callable
from pathlib import Path

from seq1f1b_jax.config import UserError

END_OF_FILE = b"\0"
BLOCK_BYTES = 1 << 24

# Parts of a Python installation that are not its library: packages of the user, the tests (most of
# all bytes, some in broken encodings on purpose), and what the build of this machine generated.
STDLIB_SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
)
STDLIB_SKIPPED_PREFIXES = ("config-", "_sysconfigdata")


def stdlib_files() -> list[Path]:
    """The `.py` files of the running interpreter's standard library, without its tests.

    Raises:
      UserError: this Python ships without its source.
    """

    def is_library(name: str) -> bool:
        return name not in STDLIB_SKIPPED_FOLDERS and not name.startswith(STDLIB_SKIPPED_PREFIXES)

    root = Path(sysconfig.get_path("stdlib"))
    files = [path for path in walk(root, is_library) if path.suffix == ".py"]
    if not files:
        raise UserError(
            f"data.source=stdlib found 0 .py files in {root}; this Python ships without its "
            "source: give the path of a text file, a folder or a .bin"
        )
    return files


def folder_files(root: Path) -> list[Path]:
    """All files below a folder, hidden names left out.

    Raises:
      UserError: there are none, or a folder cannot be read.
    """
    files = walk(root, lambda name: not name.startswith("."))
    if not files:
        raise UserError(f"data.source={root} is a folder with 0 files; put text files into it")
    return files


def walk(root: Path, keep: Callable[[str], bool]) -> list[Path]:
    """Files below `root` whose names, and whose folders' names, pass `keep`; by relative path."""

    def refuse(error: OSError):
        raise unreadable(Path(error.filename), error)

    found = []
    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = filter(keep, folders)
        found += [Path(folder, name) for name in filter(keep, names)]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def read_text(path: Path) -> bytes:
    """The file's bytes, known to be UTF-8 without zero bytes.

    Raises:
      UserError: the file, and the offset of what is wrong with it.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    check_text(path, text)
    return text


def check_text(path: Path, text: bytes | memoryview, *, offset: int = 0) -> None:
    """Refuse bytes that are not UTF-8, and zero bytes, which mark the ends of documents.

    Decodes block by block, so that a large file never exists a second time as a string.

    Args:
      path: where it was read from, for the message.
      text: bytes that begin and end between two characters.
      offset: of its first byte in the file.

    Raises:
      UserError: the file and the offset.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(text)
    for start in range(0, len(text), BLOCK_BYTES):
        block = view[start : start + BLOCK_BYTES]
        _refuse_zero(path, block, offset + start)
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(block, final=start + len(block) == len(text))
        except UnicodeDecodeError as error:
            at = start - pending + error.start
            raise UserError(
                f"{path} is not UTF-8: byte {text[at]:#04x} at offset {offset + at}; "
                "convert it (iconv -t utf-8), or take it out of the folder"
            ) from error


def unreadable(path: Path, error: OSError) -> UserError:
    """What to tell of a source that the system does not let us read."""
    return UserError(
        f"data.source: cannot read {path} ({error.strerror}); "
        "give an existing text file, folder or .bin that this user may read, or stdlib"
    )


def _refuse_zero(path: Path, block: memoryview, offset: int) -> None:
    zero = bytes(block).find(END_OF_FILE)
    if zero >= 0:
        raise UserError(
            f"{path} has a zero byte at offset {offset + zero}, so it is not text; "
            "give UTF-8 text, or token ids in a file named .bin"
        )
