"""The interface of tokenizers, and the one that needs no file: bytes."""

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32, UInt

from seq1f1b_jax.config import UserError

BYTES = "bytes"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
UNKNOWN = "\ufffd"


class Chat(NamedTuple):
    """How a model writes conversations.

    Attributes:
      templates: in Jinja, by name; the usual one is `default`.
      tokens: special tokens that templates refer to, such as `bos_token`.
    """

    templates: Mapping[str, str] = MappingProxyType({})
    tokens: Mapping[str, str] = MappingProxyType({})


class Tokenizer(ABC):
    """Text to token ids and back.

    Attributes:
      vocab_size: ids are in `[0, vocab_size)`.
      eos: id of the token that ends a document; None: there is none.
      prefix: ids that begin a document, such as a begin-of-text token; usually none.
      token_bytes: UTF-8 bytes that each token stands for; 0 for special tokens. Exact for
        byte-level tokenizers.
      sha256: hash of everything that determines the tokens, in hexadecimal; or `bytes`.
      can_cut_text: whether a text may be cut between two words of ASCII letters, before the space,
        without changing its tokens.
      special_names: spellings of the special tokens.
      stops: ids that end a generated text: `eos`, and what generation_config.json lists.
      chat: how conversations are written; without templates: unknown.
    """

    vocab_size: int
    eos: int | None
    prefix: tuple[int, ...]
    token_bytes: Int32[np.ndarray, " vocab_size"]
    sha256: str
    can_cut_text: bool
    special_names: tuple[str, ...] = ()
    stops: tuple[int, ...] = ()
    chat: Chat = Chat()

    @abstractmethod
    def _ids(self, text: str, *, specials: bool) -> list[int]:
        """Token ids of UTF-8 text, without a prefix."""

    @abstractmethod
    def encode_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids without a prefix, special tokens recognised, and the characters of each.

        Example:
          >>> from seq1f1b_jax.data.tokenizer import load_tokenizer
          >>> load_tokenizer("bytes").encode_spans("né")
          ([110, 195, 169], [(0, 1), (1, 2), (1, 2)])
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, including special ones; invalid UTF-8 becomes U+FFFD."""

    @abstractmethod
    def decode_stream(self) -> "DecodeStream":
        """Start decoding tokens one by one."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what `load_tokenizer(folder)` reads; nothing for bytes."""

    def encode(self, text: str, *, specials: bool = True) -> list[int]:
        """Token ids of a text.

        Args:
          text: any text.
          specials: as for a prompt: recognise special tokens spelled in the text, and put the
            prefix first. Otherwise everything is ordinary text.

        Raises:
          UserError: half a surrogate pair, which is not a character.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"character {error.start} of the text is {text[error.start]!r}, half a surrogate "
                "pair, which UTF-8 cannot write; take it out"
            ) from error
        ids = self._ids(text, specials=specials)
        return [*self.prefix, *ids] if specials else ids

    def array(self, text: str, dtype: np.dtype) -> UInt[np.ndarray, " tokens"]:
        """Token ids of a piece of a corpus, with special tokens as ordinary text."""
        return np.array(self._ids(text, specials=False), dtype)

    def words(self, text: str) -> list[str]:
        """Parts of a text that are tokenized separately; by default its characters."""
        return list(text)

    def encode_batch(self, texts: Iterable[str], *, specials: bool = False) -> list[list[int]]:
        """Token ids of several texts."""
        return [self.encode(text, specials=specials) for text in texts]

    def count_bytes(self, targets: Int[np.ndarray, "..."]) -> int:
        """Bytes of text that targets stand for, for bits per byte; targets below 0 do not count.

        Example:
          >>> import numpy as np
          >>> from seq1f1b_jax.data.tokenizer import load_tokenizer
          >>> load_tokenizer("bytes").count_bytes(np.array([104, 105, 0, -1]))
          2
        """
        return int(self.token_bytes[targets[targets >= 0]].sum(dtype=np.int64))


class DecodeStream(ABC):
    """Text of tokens that arrive one by one, in whole characters.

    Example:
      >>> from seq1f1b_jax.data.tokenizer import load_tokenizer
      >>> stream = load_tokenizer("bytes").decode_stream()
      >>> [stream.step(token) for token in "né".encode()], stream.finish()
      (['n', '', 'é'], '')
    """

    @abstractmethod
    def step(self, token: int) -> str:
        """The text that this token completes; empty inside a character."""

    @abstractmethod
    def finish(self) -> str:
        """The replacement of an incomplete character at the end."""


class ByteStream(DecodeStream):
    """Decodes by the bytes of each token.

    Args:
      pieces: bytes of every token; None, and ids out of range, are U+FFFD.
    """

    def __init__(self, pieces: Sequence[bytes | None]):
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def step(self, token: int) -> str:
        """The text that this token completes; empty inside a character."""
        piece = self._pieces[token] if 0 <= token < len(self._pieces) else None
        return self._decoder.decode(UNKNOWN.encode() if piece is None else piece)

    def finish(self) -> str:
        """The replacement of an incomplete character at the end."""
        return self._decoder.decode(b"", final=True)


class ByteTokenizer(Tokenizer):
    """A token is a byte of UTF-8; a zero byte, which no text holds, ends a document."""

    def __init__(self):
        self.vocab_size, self.eos, self.prefix, self.stops = 256, 0, (), (0,)
        self.sha256, self.can_cut_text = BYTES, True
        self.token_bytes = np.ones(256, np.int32)
        self.token_bytes[0] = 0
        self._pieces = [bytes([byte]) for byte in range(256)]

    def _ids(self, text: str, *, specials: bool) -> list[int]:
        return list(text.encode())

    def encode_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The bytes, and the character that each belongs to."""
        spans = [(at, at + 1) for at, letter in enumerate(text) for _ in letter.encode()]
        return list(text.encode()), spans

    def array(self, text: str, dtype: np.dtype) -> UInt[np.ndarray, " tokens"]:
        """The bytes of a piece of a corpus."""
        return np.frombuffer(text.encode(), np.uint8).astype(dtype)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of bytes; invalid UTF-8 becomes U+FFFD."""
        stream = self.decode_stream()
        return "".join(map(stream.step, ids)) + stream.finish()

    def decode_stream(self) -> DecodeStream:
        """Start decoding bytes one by one."""
        return ByteStream(self._pieces)

    def save(self, folder: Path) -> None:
        """Nothing to write."""
