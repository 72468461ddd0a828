"""A tokenizer.json, through the `tokenizers` library."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import normalizers

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.text import refuse_special
from seq1f1b_jax.data.tokenizer.base import (
    TOKENIZER,
    TOKENIZER_CONFIG,
    UNKNOWN,
    ByteStream,
    Chat,
    DecodeStream,
    Tokenizer,
)
from seq1f1b_jax.data.tokenizer.beside import (
    EOS_FILES,
    MAX_TOKENS,
    add_tokens_beside,
    adds_prefix_space,
    check_prefix_space,
    end_of_text,
    ends_of_text,
    named,
)
from seq1f1b_jax.data.tokenizer.chat.found import find_chat, write_chat
from seq1f1b_jax.data.tokenizer.library_errors import UNUSABLE, LibraryErrors

WORDS = ("a", "it's", "éa", "東a", "1a", "_a", "/a", "'a", "\na", "\t a", "  a", "Za", "a.b")
FORMS = normalizers.NFC | normalizers.NFD | normalizers.NFKC | normalizers.NFKD
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space


def load_json(path: Path, *, eos: str | None = None) -> "JsonTokenizer":
    """Load a tokenizer.json, or the one in a folder.

    Raises:
      UserError: a missing or malformed file, or an `eos` that is not one of its tokens.
    """
    file = path
    try:
        file = path / TOKENIZER if path.is_dir() else path
        refuse_special(file)
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot read {file} ({error.strerror}); give bytes, a tokenizer.json, a folder that "
            "holds one, or a .gguf"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 (offset {error.start})") from error
    with LibraryErrors(f"{file} {UNUSABLE}", quiet=True):
        inner = tokenizers.Tokenizer.from_str(text)
        add_tokens_beside(inner, file.parent)
        check_prefix_space(inner, file.parent)
        _check(inner, file)
    found = named(inner, eos, file) if eos else end_of_text(inner, file.parent)
    stops = ends_of_text(inner, file.parent)
    return JsonTokenizer(inner, eos=found, stops=stops, chat=find_chat(file.parent))


def _check(inner: tokenizers.Tokenizer, file: Path) -> None:
    """Refuse ids that are too large, and tokens that depend on chance."""
    largest = max([-1, *inner.get_vocab(with_added_tokens=True).values(), *_prefix(inner)])
    if not 0 <= largest < MAX_TOKENS or inner.id_to_token(largest) is None:
        raise UserError(
            f"{file}: its largest token is {largest}; it must have a name, and be in "
            f"[0, {MAX_TOKENS}): get the file again"
        )
    if dropout := getattr(inner.model, "dropout", None):
        raise UserError(
            f"{file}: dropout={dropout} gives a text other tokens each time; set model.dropout to "
            "null in it"
        )


class JsonTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library.

    Args:
      inner: the library's tokenizer, which is modified.
      eos: id of the token that ends a document.
      stops: ids that end a generated text beside `eos`.
      chat: how conversations are written.
    """

    def __init__(
        self, inner: tokenizers.Tokenizer, *, eos: int | None, stops: Sequence[int] = (),
        chat: Chat = Chat(),  # noqa: B008  # it is never changed
    ):
        inner.no_truncation()  # some files truncate texts to the length of their model
        inner.no_padding()
        vocab = inner.get_vocab(with_added_tokens=True)
        added = inner.get_added_tokens_decoder()
        specials = {token for token, entry in added.items() if entry.special}
        self._inner, self.eos, self.chat = inner, eos, chat
        self.stops = tuple(dict.fromkeys(i for i in (eos, *stops) if i is not None))
        self.special_names = tuple(added[token].content for token in sorted(specials))
        self.vocab_size = max(vocab.values(), default=-1) + 1
        self.prefix = _prefix(inner)
        settings = inner.to_str()
        self.sha256 = hashlib.sha256(settings.encode()).hexdigest()
        self.byte_level = _is_byte_level(json.loads(settings))
        self.can_cut_text = self.byte_level and _ends_words_at_spaces(inner)
        pieces: list[bytes | None] = [None] * self.vocab_size
        for name, token in vocab.items():
            pieces[token] = name.encode() if token in added else self._piece(name)
        self._pieces = pieces
        counts = (
            0 if piece is None or token in specials else len(piece)
            for token, piece in enumerate(pieces)
        )
        self.token_bytes = np.fromiter(counts, np.int32, self.vocab_size)

    def _ids(self, text: str, *, specials: bool) -> list[int]:
        self._inner.encode_special_tokens = not specials
        with LibraryErrors("the tokenizer cannot encode the text"):
            return self._inner.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def encode_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids without a prefix, special tokens recognised, and the characters of each."""
        self._inner.encode_special_tokens = False
        with LibraryErrors("the tokenizer cannot encode the text"):
            encoding = self._inner.encode_batch([text], add_special_tokens=False)[0]
        return encoding.ids, encoding.offsets

    def words(self, text: str) -> list[str]:
        """The words that a text is split into before merging."""
        cutter = self._inner.pre_tokenizer
        return [text] if cutter is None else [word for word, _ in cutter.pre_tokenize_str(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, including special ones; invalid UTF-8 becomes U+FFFD."""
        if self.byte_level:
            stream = self.decode_stream()
            return "".join(map(stream.step, ids)) + stream.finish()
        return self._inner.decode(list(ids), skip_special_tokens=False)

    def decode_stream(self) -> DecodeStream:
        """Start decoding tokens one by one."""
        return ByteStream(self._pieces) if self.byte_level else _WholeStream(self)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, and beside it the token that ends a document.

        An added token is named in tokenizer_config.json. Naming any other would turn that piece of
        ordinary text into a special token, so its id goes to generation_config.json instead.
        """
        self._inner.encode_special_tokens = False
        described = self._inner.to_str(pretty=True)  # its save() needs paths in UTF-8
        (folder / TOKENIZER).write_text(described, encoding="utf-8")
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False
        }
        added = self._inner.get_added_tokens_decoder()
        write_chat(self.chat, config, names={token.content for token in added.values()})
        if self.eos in added:
            config["eos_token"] = self._inner.id_to_token(self.eos)
        if len(self.stops) > 1:
            _write_json(folder / EOS_FILES[0], {"eos_token_id": list(self.stops)})
        elif self.eos is not None and self.eos not in added:
            _write_json(folder / EOS_FILES[0], {"eos_token_id": self.eos})
        # if absent, transformers 4 assumes false, whatever tokenizer.json says
        if (spaced := adds_prefix_space(self._inner)) is not None:
            config["add_prefix_space"] = spaced
        _write_json(folder / TOKENIZER_CONFIG, config)

    def _piece(self, name: str) -> bytes | None:
        """Bytes of a token of the model by its name in the vocabulary."""
        if self.byte_level:
            return bytes(BYTE_OF.get(letter, 0) for letter in name)
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return b"?"  # one byte; which one does not matter for counting
        return name.removeprefix("##").replace(SPACE, " ").encode()


def byte_level_bytes() -> JsonTokenizer:
    """A tokenizer whose ids are bytes, to save as tokenizer.json.

    The zero byte that ends documents is not a named token: its name would be recognised in texts.
    """
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={letter: byte for letter, byte in BYTE_OF.items()}, merges=[])
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    inner.decoder = tokenizers.decoders.ByteLevel()
    return JsonTokenizer(inner, eos=None)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


class _WholeStream(DecodeStream):
    """For tokens whose text depends on earlier ones: decode them together, return what is new.

    The tokens of the last piece returned are decoded again before the pending ones, because the
    text of a token depends on whether it is the first (SentencePiece drops a space there).
    """

    def __init__(self, tokenizer: JsonTokenizer):
        self._tokenizer = tokenizer
        self._shown: list[int] = []
        self._pending: list[int] = []

    def step(self, token: int) -> str:
        """The text that this token completes; empty inside a character."""
        self._pending.append(token)
        new = self._new()
        # a character has at most four bytes, so more tokens cannot be waiting for one
        if new.endswith(UNKNOWN) and len(self._pending) < 4:
            return ""
        self._shown, self._pending = self._pending, []
        return new

    def finish(self) -> str:
        """The replacement of an incomplete character at the end."""
        new = self._new() if self._pending else ""
        self._pending = []
        return new

    def _new(self) -> str:
        before = self._tokenizer.decode(self._shown)
        return self._tokenizer.decode([*self._shown, *self._pending])[len(before) :]


def _byte_letters() -> dict[str, int]:
    """The letters that represent bytes in byte-level vocabularies.

    Visible characters of Latin-1 represent themselves; the other bytes, in order, are the letters
    from U+0100 on, so that no token contains spaces or control characters.
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {
        chr(0x100 + at): byte for at, byte in enumerate(others)
    }


BYTE_OF: Mapping[str, int] = _byte_letters()


def _is_byte_level(settings: Mapping[str, Any]) -> bool:
    decoder = settings.get("decoder") or {}
    parts = decoder.get("decoders", [decoder])
    return [part.get("type") for part in parts] == ["ByteLevel"]


def _ends_words_at_spaces(inner: tokenizers.Tokenizer) -> bool:
    """Whether cutting a text before a space leaves its words, and so its tokens, unchanged.

    All patterns in use end words there, though characters around the cut could matter. Unicode's
    normal forms never join anything with a space, or with a letter before one.
    """
    if not isinstance(inner.normalizer, FORMS | None) or inner.pre_tokenizer is None:
        return False
    for token in inner.get_added_tokens_decoder().values():
        takes_space = token.rstrip and token.content[-1:].isalpha()
        if takes_space or re.search("[A-Za-z] [A-Za-z]", token.content):
            return False

    def words(text: str) -> list[str]:
        return [word for word, _ in inner.pre_tokenizer.pre_tokenize_str(text)]

    pairs = ((left, f" {right}") for left in WORDS for right in ("b", "Zz c", "s\n", "a's", "a1"))
    return all(words(left + right) == words(left) + words(right) for left, right in pairs)


def _prefix(inner: tokenizers.Tokenizer) -> tuple[int, ...]:
    """Special tokens that the tokenizer puts before a text."""
    encoding = inner.encode("a", add_special_tokens=True)
    mask = [*encoding.special_tokens_mask, 0]
    return tuple(encoding.ids[: mask.index(0)])
