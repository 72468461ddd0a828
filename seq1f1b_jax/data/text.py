"""Files of text: found in folders, read, and known to be UTF-8."""

import codecs
import os
import stat
import sysconfig
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from seq1f1b_jax.config import UserError

END_OF_FILE = b"\0"
BLOCK_BYTES = 1 << 24

# Parts of a Python installation that are not its library: packages of the user, the tests (most of
# all bytes, some in broken encodings on purpose), and what the build of this machine generated.
STDLIB_SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
)
STDLIB_SKIPPED_PREFIXES = ("config-", "_sysconfigdata")

# Why a walk leaves something out.
HIDDEN_FILE, HIDDEN_FOLDER = "hidden file", "hidden folder"
SAME_FILE = "link to a file that counts already"
SAME_FOLDER = "link to a folder that counts already"
AROUND = "link to a folder around it"
NO_FILE = "pipe, socket or device"


class Walk(NamedTuple):
    """What a walk through a folder found.

    Attributes:
      files: by relative path.
      left_out: how often each reason to leave something out was met.
    """

    files: list[Path]
    left_out: Mapping[str, int]


def stdlib_files() -> list[Path]:
    """The `.py` files of the running interpreter's standard library, without its tests.

    Raises:
      UserError: this Python ships without its source.
    """

    def is_library(name: str) -> bool:
        return name not in STDLIB_SKIPPED_FOLDERS and not name.startswith(STDLIB_SKIPPED_PREFIXES)

    root = Path(sysconfig.get_path("stdlib"))
    files = [path for path in walk(root, is_library).files if path.suffix == ".py"]
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
    return walk_folder(root).files


def walk_folder(root: Path) -> Walk:
    """All files below a folder, and what was left out: hidden names, and what is met twice.

    Raises:
      UserError: there are no files, or a folder cannot be read.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from seq1f1b_jax.data.text import walk_folder
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     for name in ("a.txt", ".cache"):
      ...         _ = Path(folder, name).write_text("text")
      ...     Path(folder, "again").symlink_to(folder)
      ...     found = walk_folder(Path(folder))
      >>> [path.name for path in found.files], dict(found.left_out)
      (['a.txt'], {'hidden file': 1, 'link to a folder that counts already': 1})
    """
    found = walk(root, lambda name: not name.startswith("."))
    if not found.files:
        raise UserError(f"data.source={root} is a folder with 0 files; put text files into it")
    return found


def walk(root: Path, keep: Callable[[str], bool]) -> Walk:
    """Files below `root` whose names, and whose folders' names, pass `keep`.

    Links are followed, to folders too, and nothing is met twice: a file or folder that several
    names lead to counts under its own name where that lies below `root`, else under the first.

    Args:
      root: where to begin.
      keep: whether a name counts.

    Raises:
      UserError: a folder that cannot be read.
    """

    def refuse(error: OSError):
        raise unreadable(Path(error.filename), error)

    left_out: Counter[str] = Counter()
    own: dict[str, Path] = {}  # by where they are
    links: list[Path] = []
    seen: set[str] = set()
    waiting = deque([root])  # links to folders wait until all that is no link was met
    while waiting:
        top = waiting.popleft()
        if reason := _met(os.path.realpath(top), seen, root):
            left_out[reason] += 1
            continue
        for folder, folders, names in os.walk(top, onerror=refuse):
            real = os.path.realpath(folder)
            if real in seen:  # below a link, and another link led into it
                folders.clear()
                continue
            seen.add(real)
            left_out[HIDDEN_FOLDER] += sum(not keep(name) for name in folders)
            left_out[HIDDEN_FILE] += sum(not keep(name) for name in names)
            kept = sorted(Path(folder, name) for name in folders if keep(name))
            waiting.extend(path for path in kept if path.is_symlink())
            folders[:] = [path.name for path in kept if not path.is_symlink()]
            for name in filter(keep, names):
                path = Path(folder, name)
                if path.is_symlink():
                    links.append(path)
                else:
                    own[os.path.join(real, name)] = path
    files = _once(own, links, left_out)
    by_path = sorted(files, key=lambda path: path.relative_to(root).as_posix())
    return Walk(by_path, {reason: count for reason, count in left_out.items() if count})


def real_path(path: Path) -> Path:
    """Where a path leads to; links that lead to themselves stay, to be told where it is read."""
    return Path(os.path.realpath(path))


def _met(real: str, seen: Container[str], root: Path) -> str:
    """Why a folder is not walked; empty: it is."""
    if real in seen:
        return SAME_FOLDER
    return AROUND if Path(real) in real_path(root).parents else ""


def _once(own: Mapping[str, Path], links: list[Path], left_out: Counter[str]) -> list[Path]:
    """Every file once, and nothing that is no file."""
    met = dict(own)
    for path in sorted(links):
        if met.setdefault(os.path.realpath(path), path) is not path:
            left_out[SAME_FILE] += 1
    files = [path for path in met.values() if not _is_special(path)]
    left_out[NO_FILE] += len(met) - len(files)
    return files


def _is_special(path: Path) -> bool:
    """Whether it is there, and neither file nor folder; reading a pipe might never end."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:  # told where it is read
        return False


def refuse_special(path: Path) -> None:
    """Refuse a pipe, a socket or a device: reading one might never end.

    Raises:
      UserError: it is one.
    """
    if not path.is_dir() and _is_special(path):
        raise UserError(
            f"{path} is a {NO_FILE}, and data may be read more than once; write it to a file and "
            "give that"
        )


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

    Example:
      >>> from pathlib import Path
      >>> from seq1f1b_jax.data.text import check_text
      >>> check_text(Path("a.txt"), "naïve".encode())
    """
    view = memoryview(text)
    blocks = (view[start : start + BLOCK_BYTES] for start in range(0, len(view), BLOCK_BYTES))
    check_blocks(path, blocks, offset=offset)


def check_blocks(path: Path, blocks: Iterable[bytes | memoryview], *, offset: int = 0) -> None:
    """The same of text that comes in blocks, which may end inside a character.

    Raises:
      UserError: the file and the offset.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    at = offset
    for block in blocks:
        _refuse_zero(path, block, at)
        _decode(path, decoder, block, at, final=False)
        at += len(block)
    _decode(path, decoder, b"", at, final=True)


def _decode(
    path: Path, decoder: codecs.IncrementalDecoder, block: bytes | memoryview, at: int, *,
    final: bool,
) -> None:
    pending = len(decoder.getstate()[0])
    try:
        decoder.decode(block, final=final)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte {error.object[error.start]:#04x} at offset "
            f"{at - pending + error.start}; convert it (iconv -t utf-8), or take it out of the "
            "folder"
        ) from error


def unreadable(path: Path, error: OSError) -> UserError:
    """What to tell of a source that the system does not let us read."""
    return UserError(
        f"cannot read {path} ({error.strerror}); name files and folders that exist and that this "
        "user may read, and take links that lead nowhere out of a folder"
    )


def _refuse_zero(path: Path, block: bytes | memoryview, offset: int) -> None:
    zero = bytes(block).find(END_OF_FILE)
    if zero >= 0:
        raise UserError(
            f"{path} has a zero byte at offset {offset + zero}, so it is not text; "
            "give UTF-8 text, or token ids in a file named .bin"
        )
