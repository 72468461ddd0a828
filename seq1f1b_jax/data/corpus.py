"""Sources of tokens: text, Python's own source code, a `.bin` of token ids, a token folder.

Text is read byte by byte: a token is one byte of UTF-8, so the vocabulary has 256 ids and nothing
needs downloading. Every file is a document. The files of a folder are concatenated in the order of
their relative paths, each followed by a zero byte; zero bytes inside a text are refused, so this
separator is unambiguous. For other tokenizers: `python -m seq1f1b_jax.data prepare`.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt, UInt8

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.folder import LOSS_MASK, META, TOKENS, open_folder, read_meta
from seq1f1b_jax.data.plain import plain_file, plain_files
from seq1f1b_jax.data.text import (
    BLOCK_BYTES,
    END_OF_FILE,
    read_text,
    refuse_special,
    stdlib_files,
    unreadable,
)
from seq1f1b_jax.data.tokenizer import BYTES, Tokenizer, load_tokenizer

BYTE_VOCAB_SIZE = 256
MAX_VOCAB_SIZE = 2**31  # batches are int32


@dataclass(frozen=True, eq=False)
class Corpus:
    """The tokens of a corpus and what identifies them.

    Attributes:
      tokens: token ids in corpus order, `[num_tokens]`; in memory for text, else memory-mapped.
      vocab_size: ids are in `[0, vocab_size)`.
      kind: `stdlib`, `text`, `tokens` (a `.bin`) or `prepared` (a token folder).
      sha256: hash of the bytes of `tokens`, in hexadecimal.
      num_files: files that hold the tokens.
      documents: offset of each document, followed by the end; None if unknown.
      tokenizer: argument of `load_tokenizer` for its tokenizer; None if unknown.
      tokenizer_size: tokens in its vocabulary; the model's may be larger.
      loss_mask: of each token, whether it counts as a target; None: all do.
      loss_sha256: hash of the bytes of `loss_mask`; empty: there is none.
      num_counted: tokens that count; None: all.
    """

    tokens: UInt[np.ndarray, " num_tokens"]
    vocab_size: int
    kind: str
    sha256: str
    num_files: int
    documents: Int64[np.ndarray, " num_documents_and_1"] | None = None
    tokenizer: str | None = None
    tokenizer_size: int = BYTE_VOCAB_SIZE
    loss_mask: UInt8[np.ndarray, " num_tokens"] | None = None
    loss_sha256: str = ""
    num_counted: int | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of `tokens`."""
        return self.tokens.nbytes

    def check_whole(self) -> None:
        """Check that no mapped file was truncated: reading past the end would kill the process.

        Raises:
          UserError: one was.
        """
        arrays = (self.tokens, self.documents, self.loss_mask)
        for array in (array for array in arrays if isinstance(array, np.memmap)):
            size = vars(array)["_mmap"].size()  # of the mapped file, whatever has its name by now
            if size < array.offset + array.nbytes:
                raise UserError(
                    f"{array.filename} was cut to {size} bytes while it was read, and had "
                    f"{array.offset + array.nbytes}; restore the file and run the command again"
                )

    def load_tokenizer(self) -> Tokenizer | None:
        """The tokenizer that produced the tokens; None for a `.bin`, which does not record it.

        Raises:
          UserError: the file is missing or malformed, or holds another tokenizer.
        """
        if self.tokenizer is None:
            return None
        tokenizer = load_tokenizer(self.tokenizer)
        if tokenizer.vocab_size != self.tokenizer_size:
            raise UserError(
                f"{self.tokenizer} has a tokenizer with {tokenizer.vocab_size} tokens, and "
                f"meta.json says {self.tokenizer_size}; it is not the one that the tokens were "
                "made with: prepare the folder again"
            )
        return tokenizer


class Vocabulary(NamedTuple):
    """Rows that the model has for tokens, where that is known, and the setting of their number."""

    size: int | None
    setting: str

    def of(self, default: int) -> "Vocabulary":
        """With a size."""
        return self._replace(size=self.size or default)


def load_corpus(
    source: str, *, token_dtype: str = "uint16", vocab_size: int | None = None,
    vocab_setting: str = "model.vocab_size",
) -> Corpus:
    """Read the corpus that `source` names, reading and hashing every byte once.

    Args:
      source: `stdlib` for the `.py` files of the running interpreter's standard library (without
        its tests), or the path of a text file, of a folder of text files (searched recursively,
        hidden names left out), of a folder made by `prepare`, or of a `.bin` file: little-endian
        token ids without a header.
      token_dtype: dtype of the ids in a `.bin`: `uint16` or `uint32`.
      vocab_size: rows of the model's vocabulary; None: 256 for text, largest id + 1 for a `.bin`,
        that of the tokenizer for a token folder.
      vocab_setting: what sets it, for messages.

    Raises:
      UserError: a file that is missing, unreadable, empty or binary; a file of records (JSON, CSV,
        parquet) or a compressed one, which `prepare` reads; a `.bin` of odd size; an id outside
        the vocabulary; a token folder that contradicts its meta.json.

    Example:
      >>> from seq1f1b_jax.data import load_corpus
      >>> corpus = load_corpus("stdlib")
      >>> corpus.vocab_size, corpus.kind
      (256, 'stdlib')
    """
    vocab = Vocabulary(vocab_size, vocab_setting)
    if source == "stdlib":
        return _text_corpus(source, stdlib_files(), vocab)
    refuse_special(Path(source))
    if Path(source, META).is_file():
        return _prepared_corpus(source, vocab)
    if Path(source).is_dir():
        return _text_corpus(source, plain_files(source), vocab)
    if source.endswith(".bin"):
        return _bin_corpus(source, token_dtype, vocab)
    return _text_corpus(source, [plain_file(source)], vocab)


def _text_corpus(source: str, files: list[Path], vocab: Vocabulary) -> Corpus:
    """All files as bytes; those of a folder each get their separator, a single one none."""
    single = source != "stdlib" and not Path(source).is_dir()
    texts = [text for text in map(read_text, files) if text]
    if not texts:
        raise _no_tokens(source)
    joined = texts[0] if single else END_OF_FILE.join([*texts, b""])
    tokens = np.frombuffer(joined, np.uint8)
    lengths = np.array([len(text) + (not single) for text in texts])
    return Corpus(
        tokens, *_examined(tokens, vocab.of(BYTE_VOCAB_SIZE), source,
        kind="stdlib" if source == "stdlib" else "text"), num_files=len(texts),
        documents=np.concatenate([[0], np.cumsum(lengths)]), tokenizer=BYTES,
    )


def _bin_corpus(source: str, token_dtype: str, vocab: Vocabulary) -> Corpus:
    _check_beside(Path(source), token_dtype)
    tokens = _map_tokens(Path(source), token_dtype)
    if not tokens.size:
        raise _no_tokens(source)
    return Corpus(tokens, *_examined(tokens, vocab, source, kind="tokens"), num_files=1)


def _check_beside(path: Path, token_dtype: str) -> None:
    """Refuse a dtype that contradicts the meta.json beside the tokens.bin of a token folder."""
    beside = path.with_name(META)
    if path.name == TOKENS and beside.is_file():
        meta = read_meta(beside)
        written = meta.token_dtype
        if meta.loss_sha256:
            raise UserError(
                f"{path} has a {LOSS_MASK} beside it, by which not all of its tokens count for the "
                f"loss; give the folder {path.parent}"
            )
        if written != token_dtype:
            raise UserError(
                f"{path} holds {written} by the meta.json beside it, and data.token_dtype is "
                f"{token_dtype}; give --data.token_dtype {written}, or the folder {path.parent}"
            )


def _prepared_corpus(source: str, vocab: Vocabulary) -> Corpus:
    folder = open_folder(Path(source))
    meta = folder.meta
    if vocab.size is not None and vocab.size < meta.vocab_size:
        raise UserError(
            f"data.source={source}: its tokenizer has {meta.vocab_size} tokens and "
            f"{vocab.setting}={vocab.size} has no rows for all of them; give "
            f"--{vocab.setting} {meta.vocab_size}, leave that setting out (a new model takes the "
            "folder's), or give tokens of the model's own tokenizer"
        )
    rows, kind, sha256 = _examined(
        folder.tokens, vocab.of(meta.vocab_size), source, kind="prepared"
    )
    found = {TOKENS: (sha256, meta.sha256)}
    if folder.loss_mask is not None:
        found[LOSS_MASK] = (_hash_and_largest(folder.loss_mask)[0], meta.loss_sha256)
    for name, (actual, written) in found.items():
        if actual != written:
            raise UserError(
                f"{source}: {name} has sha256 {actual[:12]} and meta.json says {written[:12]}; "
                "the file was changed since it was prepared: prepare the folder again"
            )
    tokenizer = BYTES if meta.tokenizer == BYTES else source
    return Corpus(
        folder.tokens, rows, kind, sha256, 1, folder.documents, tokenizer, meta.vocab_size,
        folder.loss_mask, meta.loss_sha256, meta.num_counted,
    )


def _examined(
    tokens: np.ndarray, vocab: Vocabulary, source: str, *, kind: str
) -> tuple[int, str, str]:
    """Rows of the vocabulary, kind and hash, in one pass over the tokens."""
    sha256, largest = _hash_and_largest(tokens)
    rows = vocab.size or min(largest + 1, MAX_VOCAB_SIZE)
    if largest >= rows:
        _refuse_id(tokens, vocab._replace(size=rows), source, kind)
    return rows, kind, sha256


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
        raise unreadable(path, error) from error


def _no_tokens(source: str) -> UserError:
    return UserError(f"data.source={source} holds 0 tokens; give a source with text in it")


def _blocks(tokens: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    length = BLOCK_BYTES // tokens.itemsize
    for start in range(0, tokens.size, length):
        yield start, tokens[start : start + length]


def _hash_and_largest(tokens: np.ndarray) -> tuple[str, int]:
    """Full sha256 (no sampling: a changed byte makes another corpus) and the largest id."""
    digest, largest = hashlib.sha256(), 0
    for _, block in _blocks(tokens):
        digest.update(block.data)
        largest = max(largest, int(block.max()))
    return digest.hexdigest(), largest


def _refuse_id(tokens: np.ndarray, vocab: Vocabulary, source: str, kind: str) -> None:
    """Raise for the first id outside the vocabulary; the caller knows that there is one."""
    for start, block in _blocks(tokens):
        bad = np.flatnonzero(block >= vocab.size)
        if bad.size:
            raise UserError(
                f"data.source={source}: token id {block[bad[0]]} at position {start + bad[0]} is "
                f"not below vocab_size={vocab.size}; raise {vocab.setting}"
                + (" or correct data.token_dtype" if kind == "tokens" else "")
            )
