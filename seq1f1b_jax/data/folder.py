"""A token folder: what `prepare` writes, and how it is checked when it is read.

    tokens.bin        token ids one after the other, little-endian uint16 or uint32, no header
    documents.npy     int64 [num_documents + 1]: offset of each document, then the end
    loss_mask.bin     a byte for each token: 1 if it counts as a target, else 0; absent if all do
    meta.json         `Meta`
    tokenizer.json    the tokenizer, with tokenizer_config.json beside it; absent for bytes

Files may be truncated or mixed up: every length is checked before it is used.
"""

import json
import tokenize
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt, UInt8

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.text import refuse_special

VERSION, MASKED_VERSION = 1, 2
"""Of the format; 2 has a loss mask, which a program that knows only 1 must not overlook."""
META, TOKENS, DOCUMENTS = "meta.json", "tokens.bin", "documents.npy"
LOSS_MASK = "loss_mask.bin"
LOSS_ON = ("text", "messages", "answer")
UNFINISHED = ".partial"
"""Suffix of the folder that `prepare` works in until it is done."""
CHECKED_DOCUMENTS = 1 << 20
"""Documents that are checked at a time."""


@dataclass(frozen=True)
class Meta:
    """The contents of meta.json.

    Attributes:
      version: version of the format.
      token_dtype: `uint16` or `uint32`.
      vocab_size: tokens of the tokenizer.
      num_tokens: ids in tokens.bin.
      num_documents: documents in tokens.bin.
      num_bytes: UTF-8 bytes of all documents.
      sha256: hash of tokens.bin, in hexadecimal.
      tokenizer: `bytes`, or `tokenizer.json`.
      eos: id of the token that ends each document; None: there is none.
      num_empty: empty documents, left out.
      num_skipped: unreadable documents, left out.
      fingerprint: hash of the inputs and settings.
      special_tokens: whether special tokens spelled in documents are `text`, or `keep` their ids.
      num_special: how many are spelled in the documents; None: not counted.
      num_refused: conversations whose tokens that count are not certain, left out.
      loss_on: what counts for the loss: all `text`, the assistant's turns of `messages`, or the
        `answer` to a prompt.
      num_counted: tokens that count as targets; None: all.
      loss_sha256: hash of loss_mask.bin, in hexadecimal; empty: there is none.
    """

    version: int
    token_dtype: str
    vocab_size: int
    num_tokens: int
    num_documents: int
    num_bytes: int
    sha256: str
    tokenizer: str
    eos: int | None
    num_empty: int = 0
    num_skipped: int = 0
    fingerprint: str = ""
    special_tokens: str = "text"
    num_special: int | None = None
    num_refused: int = 0
    loss_on: str = LOSS_ON[0]
    num_counted: int | None = None
    loss_sha256: str = ""


class TokenFolder(NamedTuple):
    """An opened folder; all arrays are memory-mapped."""

    meta: Meta
    tokens: UInt[np.ndarray, " num_tokens"]
    documents: Int64[np.ndarray, " num_documents_and_1"]
    loss_mask: UInt8[np.ndarray, " num_tokens"] | None = None


def open_folder(path: Path) -> TokenFolder:
    """Open a token folder and check everything but the hash of its tokens.

    Raises:
      UserError: a file is missing or contradicts meta.json.
    """
    meta = read_meta(path / META)
    masked = meta.version == MASKED_VERSION
    for name in (TOKENS, DOCUMENTS, *[LOSS_MASK] * masked):
        refuse_special(path / name)
    try:
        tokens = _map_tokens(path / TOKENS, meta, meta.token_dtype)
        loss_mask = _map_tokens(path / LOSS_MASK, meta, "uint8") if masked else None
        documents = _map_documents(path / DOCUMENTS, meta)
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename} ({error.strerror}); {path} is not whole: prepare it "
            "again"
        ) from error
    _check_offsets(path / DOCUMENTS, documents, meta.num_tokens)
    return TokenFolder(meta, tokens, documents, loss_mask)


def write_meta(path: Path, meta: Meta) -> None:
    """Write meta.json."""
    path.write_text(json.dumps(asdict(meta), indent=1) + "\n", encoding="utf-8")


def read_meta(path: Path) -> Meta:
    """Read meta.json and check the type and range of every field.

    Raises:
      UserError: it is missing, malformed, of another version, or holds an impossible value.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}); name a folder that prepare has written"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); prepare the folder again") from error
    versions = (VERSION, MASKED_VERSION)
    if not isinstance(given, dict) or given.get("version") not in versions:
        version = given.get("version") if isinstance(given, dict) else None
        raise UserError(
            f"{path} has version {version!r} and this program reads {VERSION} and "
            f"{MASKED_VERSION}; prepare the folder again"
        )
    defaults = {
        field.name: None if field.default is MISSING else field.default for field in fields(Meta)
    }
    meta = Meta(**{name: given.get(name, default) for name, default in defaults.items()})
    _check_meta(path, meta)
    return meta


def _check_meta(path: Path, meta: Meta) -> None:
    counts = ("vocab_size", "num_tokens", "num_documents")
    rules: dict[str, Any] = {
        "token_dtype": meta.token_dtype in ("uint16", "uint32"),
        **{name: _is_count(getattr(meta, name), at_least=1) for name in counts},
        **{name: _is_count(getattr(meta, name)) for name in ("num_bytes", "num_empty")},
        "num_skipped": _is_count(meta.num_skipped),
        "sha256": isinstance(meta.sha256, str) and len(meta.sha256) == 64,
        "tokenizer": meta.tokenizer in ("bytes", "tokenizer.json"),
        "eos": meta.eos is None or _is_count(meta.eos),
        "fingerprint": isinstance(meta.fingerprint, str),
        "special_tokens": meta.special_tokens in ("text", "keep"),
        "num_special": meta.num_special is None or _is_count(meta.num_special),
        "num_refused": _is_count(meta.num_refused),
        "loss_on": meta.loss_on in LOSS_ON,
        "num_counted": meta.num_counted is None or _is_count(meta.num_counted),
        "loss_sha256": isinstance(meta.loss_sha256, str),
    }
    if all(rules.values()):
        masked = meta.version == MASKED_VERSION
        rules["eos"] = meta.eos is None or meta.eos < meta.vocab_size
        rules["loss_on"] = (meta.loss_on != LOSS_ON[0]) == masked
        rules["num_counted"] = (meta.num_counted is not None) == masked
        rules["loss_sha256"] = len(meta.loss_sha256) == (64 if masked else 0)
    broken = [name for name, holds in rules.items() if not holds]
    if broken:
        value = json.dumps(getattr(meta, broken[0]))[:60]
        raise UserError(
            f"{path} says {value} for {broken[0]}, which cannot be; prepare the folder again"
        )


def _is_count(value: Any, *, at_least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and at_least <= value < 2**62


def _map_tokens(path: Path, meta: Meta, name: str) -> np.ndarray:
    """An element of this dtype for each token."""
    dtype = np.dtype(name).newbyteorder("<")
    expected, size = meta.num_tokens * dtype.itemsize, path.stat().st_size
    if size != expected:
        raise UserError(
            f"{path} has {size} bytes and meta.json says {meta.num_tokens} tokens of "
            f"{name}, {expected} bytes; the file is not whole: prepare the folder again"
        )
    return np.memmap(path, dtype, mode="r")


def _map_documents(path: Path, meta: Meta) -> np.ndarray:
    """The offsets, if their header and the size of the file agree with `meta`."""
    expected = (meta.num_documents + 1,)
    with path.open("rb") as file:
        try:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("not version 1.0 of the format")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        # NumPy re-tokenizes a header that is not a literal, which raises errors of its own
        except (ValueError, SyntaxError, tokenize.TokenError) as error:
            raise UserError(f"{path} is not an array file ({_one_line(error)})") from error
        begin = file.tell()
    if dtype != np.dtype("<i8") or shape != expected or fortran and len(shape) > 1:
        raise UserError(
            f"{path} holds {dtype}{list(shape)} and meta.json says int64{list(expected)}; prepare "
            "the folder again"
        )
    size = path.stat().st_size
    if size != begin + expected[0] * 8:
        raise UserError(
            f"{path} has {size} bytes and its header says {begin + expected[0] * 8}; the file is "
            "not whole: prepare the folder again"
        )
    return np.memmap(path, "<i8", mode="r", offset=begin, shape=expected)


def _check_offsets(path: Path, documents: np.ndarray, num_tokens: int) -> None:
    """Offsets must rise from 0 to the number of tokens, so that no document is empty."""
    for start in range(0, documents.size - 1, CHECKED_DOCUMENTS):
        lengths = np.diff(documents[start : start + CHECKED_DOCUMENTS + 1])
        if (lengths < 1).any():
            at = start + int(np.argmax(lengths < 1))
            raise UserError(
                f"{path}: document {at} begins at {documents[at]} and ends at {documents[at + 1]}; "
                "prepare the folder again"
            )
    if documents[0] != 0 or documents[-1] != num_tokens:
        raise UserError(
            f"{path} runs from {documents[0]} to {documents[-1]} and tokens.bin has {num_tokens} "
            "tokens; prepare the folder again"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:100]
