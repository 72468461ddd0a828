"""Where the tokens come from: a file, a folder, a `.bin` of token ids, or Python's own source.

Text is byte-level: one token is one byte of UTF-8, so the vocabulary has 256 ids and there is
nothing to download. Files of a folder are joined in the order of their relative paths, with one
zero byte after each file; zero bytes inside a text are refused, so the mark is unambiguous.
"""

import codecs
import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt

from seq1f1b_jax.config import UserError

BYTE_VOCAB_SIZE = 256
MAX_VOCAB_SIZE = 2**31  # batches are int32
END_OF_FILE = b"\0"
BLOCK_BYTES = 1 << 24

# Parts of a Python installation that are not its library: packages of the user, the tests (most of
# all bytes, some in broken encodings on purpose), and what the build of this machine generated.
STDLIB_SKIPPED_FOLDERS = frozenset(
    {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
)
STDLIB_SKIPPED_PREFIXES = ("config-", "_sysconfigdata")


@dataclass(frozen=True)
class Corpus:
    """Tokens of a whole corpus and what identifies them.

    Attributes:
      tokens: token ids in corpus order, `[num_tokens]`; in memory for text, memory-mapped for
        `.bin`.
      vocab_size: ids lie in `[0, vocab_size)`.
      kind: `stdlib`, `text` or `tokens`.
      sha256: hash of all bytes of `tokens` in their order, in hexadecimal.
      num_files: files that hold the tokens.
    """

    tokens: UInt[np.ndarray, " num_tokens"]
    vocab_size: int
    kind: str
    sha256: str
    num_files: int

    @property
    def num_bytes(self) -> int:
        """Bytes of `tokens`."""
        return self.tokens.nbytes


def load_corpus(
    source: str, *, token_dtype: str = "uint16", vocab_size: int | None = None
) -> Corpus:
    """Read the corpus that `source` names; every byte is read and hashed once.

    Args:
      source: `stdlib` for the `.py` files of the running interpreter's standard library (without
        its tests), or the path of a text file, of a folder of text files (searched recursively,
        hidden names left out), or of a `.bin` file: little-endian token ids without a header.
      token_dtype: type of the ids in a `.bin`: `uint16` or `uint32`.
      vocab_size: rows of the model's vocabulary; None: 256 for text, largest id + 1 for a `.bin`.

    Raises:
      UserError: a missing, unreadable, empty or binary file, a `.bin` of a broken size, an id
        outside the vocabulary.

    Example:
      >>> corpus = load_corpus("stdlib")
      >>> corpus.vocab_size, corpus.kind
      (256, 'stdlib')
    """
    if source == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        tokens, num_files = _join(root, _stdlib_files(root))
        kind = "stdlib"
    elif Path(source).is_dir():
        tokens, num_files = _join(Path(source), _folder_files(Path(source)))
        kind = "text"
    elif source.endswith(".bin"):
        tokens, num_files, kind = _map_tokens(Path(source), token_dtype), 1, "tokens"
    else:
        tokens, num_files, kind = _as_tokens(_read_text(Path(source))), 1, "text"
    if tokens.size == 0:
        raise UserError(f"data.source={source} holds 0 tokens; give a source with text in it")
    sha256, largest = _hash_and_largest(tokens)
    found = min(largest + 1, MAX_VOCAB_SIZE) if kind == "tokens" else BYTE_VOCAB_SIZE
    rows = vocab_size or found
    if largest >= rows:
        _refuse_id(tokens, rows, source)
    return Corpus(tokens, rows, kind, sha256, num_files)


def _walk(root: Path, keep: Callable[[str], bool]) -> list[Path]:
    """Files below `root` whose names, and whose folders' names, pass `keep`; by relative path."""

    def refuse(error: OSError):
        raise _unreadable(Path(error.filename), error)

    found = []
    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = filter(keep, folders)
        found += [Path(folder, name) for name in filter(keep, names)]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _stdlib_files(root: Path) -> list[Path]:
    def is_library(name: str) -> bool:
        return name not in STDLIB_SKIPPED_FOLDERS and not name.startswith(STDLIB_SKIPPED_PREFIXES)

    files = [path for path in _walk(root, is_library) if path.suffix == ".py"]
    if not files:
        raise UserError(
            f"data.source=stdlib found 0 .py files in {root}; this Python ships without its "
            "source: give the path of a text file, a folder or a .bin"
        )
    return files


def _folder_files(root: Path) -> list[Path]:
    files = _walk(root, lambda name: not name.startswith("."))
    if not files:
        raise UserError(f"data.source={root} is a folder with 0 files; put text files into it")
    return files


def _join(root: Path, files: Iterable[Path]) -> tuple[np.ndarray, int]:
    """All texts, a zero byte after each, empty files left out; with the number of texts."""
    texts = [text for text in map(_read_text, files) if text]
    if not texts:
        raise UserError(f"data.source={root}: all files are empty; 1 token at least is needed")
    return _as_tokens(END_OF_FILE.join(texts) + END_OF_FILE), len(texts)


def _as_tokens(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8)


def _read_text(path: Path) -> bytes:
    """The file's bytes, known to be UTF-8 without zero bytes."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    zero = text.find(END_OF_FILE)
    if zero >= 0:
        raise UserError(
            f"{path} has a zero byte at offset {zero}, so it is not text; "
            "give UTF-8 text, or token ids in a file named .bin"
        )
    _check_utf8(path, text)
    return text


def _check_utf8(path: Path, text: bytes) -> None:
    """Decode block by block, so that a large file never exists a second time as a string."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(text)
    for start in range(0, len(text), BLOCK_BYTES):
        stop = min(start + BLOCK_BYTES, len(text))
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(view[start:stop], final=stop == len(text))
        except UnicodeDecodeError as error:
            offset = start - pending + error.start
            raise UserError(
                f"{path} is not UTF-8: byte {text[offset]:#04x} at offset {offset}; "
                "convert it (iconv -t utf-8), or take it out of the folder"
            ) from error


def _map_tokens(path: Path, token_dtype: str) -> np.ndarray:
    """The ids of a `.bin`, memory-mapped."""
    if token_dtype not in ("uint16", "uint32"):
        raise UserError(f"data.token_dtype={token_dtype}; it must be uint16 or uint32")
    dtype = np.dtype(token_dtype).newbyteorder("<")
    try:
        size = path.stat().st_size
        if size % dtype.itemsize:
            raise UserError(
                f"{path} has {size} bytes, which is not a multiple of the {dtype.itemsize} bytes "
                f"of {token_dtype}; set data.token_dtype to the type it was written with"
            )
        return np.memmap(path, dtype, mode="r") if size else np.zeros(0, dtype)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"data.source: cannot read {path} ({error.strerror}); "
        "give an existing text file, folder or .bin that this user may read, or stdlib"
    )


def _blocks(tokens: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    length = BLOCK_BYTES // tokens.itemsize
    for start in range(0, tokens.size, length):
        yield start, tokens[start : start + length]


def _hash_and_largest(tokens: np.ndarray) -> tuple[str, int]:
    """Full sha256 (no sampling: a changed byte anywhere is another corpus) and the largest id."""
    digest, largest = hashlib.sha256(), 0
    for _, block in _blocks(tokens):
        digest.update(block.data)
        largest = max(largest, int(block.max()))
    return digest.hexdigest(), largest


def _refuse_id(tokens: np.ndarray, vocab_size: int, source: str) -> None:
    """Raise for the first id outside the vocabulary; there is one."""
    for start, block in _blocks(tokens):
        bad = np.flatnonzero(block >= vocab_size)
        if bad.size:
            raise UserError(
                f"data.source={source}: token id {block[bad[0]]} at position {start + bad[0]} is "
                f"not below vocab_size={vocab_size}; raise model.vocab_size or correct "
                "data.token_dtype"
            )
