"""The tokenizer of a GGUF, from its metadata `tokenizer.ggml.*`.

    model        gpt2: byte-level BPE;  llama: SentencePiece with scores
    tokens       names of all tokens; token_type: 3 control, 4 user-defined, 6 byte
    merges       pairs "a b" of a BPE, best first; scores: of SentencePiece tokens
    pre          name of the pattern that splits text into words before merging (`PATTERNS`)

A GGUF names the pattern but does not contain it, so an unknown name is refused: another pattern
would silently give other tokens.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.tokenizer.base import Chat
from seq1f1b_jax.data.tokenizer.chat.found import GGUF_TOKENS, gguf_chat
from seq1f1b_jax.data.tokenizer.from_json import SPACE, JsonTokenizer
from seq1f1b_jax.data.tokenizer.library_errors import UNUSABLE, LibraryErrors
from seq1f1b_jax.formats.gguf import open_gguf

CONTROL, USER_DEFINED = 3, 4

# Word patterns, as published with the models; they differ in `{digits}`.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = _WORDS.format(digits=r"\p{N}{1,3}")
QWEN2 = _WORDS.format(digits=r"\p{N}")
# name: pattern; None: that of GPT-2, which is built into the library
PATTERNS: Mapping[str, str | None] = {
    "gpt-2": None,
    "smollm": None,
    "llama-bpe": LLAMA3,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "qwen2": QWEN2,
}
SINGLE_DIGITS = ("smollm",)
WHOLE_WORDS = ("llama-bpe", "llama3", "llama-v3")  # a word that is a token is not merged
COMPOSED = ("qwen2",)  # text is normalised to NFC


def load_gguf(path: Path, *, eos: str | None = None) -> JsonTokenizer:
    """Build the tokenizer of a GGUF.

    Args:
      path: the file.
      eos: the token that ends a document; None: that of the metadata.

    Raises:
      UserError: an unreadable file, or an unsupported or incomplete tokenizer.
    """
    metadata = _Metadata(path, open_gguf(path).metadata)
    kind = metadata.get("model")
    if kind == "gpt2":
        inner = _byte_level(path, metadata)
    elif kind == "llama":
        inner = _sentencepiece(path, metadata)
    else:
        raise UserError(
            f"{path} has a tokenizer of kind {kind!r}; gpt2 and llama are supported: give the "
            "model's tokenizer.json"
        )
    _add_specials(inner, metadata)
    _add_bos(inner, metadata, default=kind == "llama" or metadata.get("pre") in WHOLE_WORDS)
    token = inner.token_to_id(eos) if eos else metadata.token("eos_token_id")
    if eos and token is None:
        raise UserError(f"eos={eos!r} is not a token of {path}; give one that is")
    ends = (metadata.token(name) for name in ("eos_token_id", "eot_token_id"))
    stops = [end for end in ends if end is not None]
    return JsonTokenizer(inner, eos=token, stops=stops, chat=metadata.chat())


class _Metadata:
    """The entries `tokenizer.ggml.*`, each checked when it is read."""

    def __init__(self, path: Path, entries: Mapping[str, Any]):
        self._path, self._entries = path, entries

    def get(self, name: str) -> Any:
        return self._entries.get(f"tokenizer.ggml.{name}")

    def array(self, name: str, kind: type, size: int | None = None) -> list:
        """An array of one type, and of the given length."""
        values = self.get(name)
        values = values.tolist() if hasattr(values, "tolist") else values
        whole = isinstance(values, list | tuple) and all(isinstance(v, kind) for v in values)
        if not whole or size not in (None, len(values)):
            found = f"{len(values)} values" if isinstance(values, list | tuple) else "none"
            wanted = f"{size or 'a list'} of type {kind.__name__}"
            raise UserError(
                f"{self._path}: tokenizer.ggml.{name} has {found}, and the tokenizer needs "
                f"{wanted}; give the model's tokenizer.json"
            )
        return list(values)

    def tokens(self) -> list[str]:
        """Names of all tokens, all distinct."""
        names = self.array("tokens", str)
        if not names or len(set(names)) < len(names):
            raise UserError(
                f"{self._path}: tokenizer.ggml.tokens has {len(names)} names, {len(set(names))} of "
                "them different; all must be, and one at least"
            )
        return names

    def token(self, name: str) -> int | None:
        """An id of the vocabulary."""
        token = self.get(name)
        if token is None:
            return None
        if type(token) is not int or not 0 <= token < len(self.tokens()):
            raise UserError(f"{self._path}: tokenizer.ggml.{name} is {token}, which is no token")
        return token

    def chat(self) -> Chat:
        """How conversations are written."""
        ids = {name: self.token(entry) for name, entry in GGUF_TOKENS.items()}
        names = self.tokens()
        known = {name: names[token] for name, token in ids.items() if token is not None}
        return gguf_chat(self._entries, known)


def _byte_level(path: Path, metadata: _Metadata) -> tokenizers.Tokenizer:
    """A BPE over bytes, as in GPT-2."""
    pre = metadata.get("pre")
    if not isinstance(pre, str) or pre not in PATTERNS:
        raise UserError(
            f"{path}: tokenizer.ggml.pre is {pre!r}, which is none of {', '.join(PATTERNS)}; give "
            "the model's tokenizer.json"
        )
    vocab = {name: token for token, name in enumerate(metadata.tokens())}
    merges = [tuple(merge.split(" ")) for merge in metadata.array("merges", str)]
    broken = [merge for merge in merges if len(merge) != 2]
    if broken:
        raise UserError(f"{path}: tokenizer.ggml.merges has {' '.join(broken[0])!r}; a pair is two")
    with LibraryErrors(f"{path} {UNUSABLE}"):
        model = models.BPE(vocab=vocab, merges=merges, ignore_merges=pre in WHOLE_WORDS)
    inner = tokenizers.Tokenizer(model)
    if pre in COMPOSED:
        inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Sequence(_cutters(pre))
    inner.decoder = decoders.ByteLevel()
    return inner


def _cutters(pre: str) -> list[pre_tokenizers.PreTokenizer]:
    pattern = PATTERNS[pre]
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    if pattern is not None:
        return [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"), level]
    return [pre_tokenizers.Digits(individual_digits=True), level] if pre in SINGLE_DIGITS else [
        level
    ]


def _sentencepiece(path: Path, metadata: _Metadata) -> tokenizers.Tokenizer:
    """A BPE over characters with byte fallback: SentencePiece as in Llama 2."""
    names = metadata.tokens()
    scores = metadata.array("scores", float, len(names))
    unknown = metadata.token("unknown_token_id")
    vocab = {name: token for token, name in enumerate(names)}
    with LibraryErrors(f"{path} {UNUSABLE}"):
        model = models.BPE(
            vocab=vocab, merges=_merges(names, scores), fuse_unk=True, byte_fallback=True,
            unk_token=names[0 if unknown is None else unknown],
        )
    inner = tokenizers.Tokenizer(model)
    spaced = metadata.get("add_space_prefix") in (None, True)
    inner.normalizer = normalizers.Sequence(
        [*[normalizers.Prepend(SPACE)] * spaced, normalizers.Replace(" ", SPACE)]
    )
    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*parts, *[decoders.Strip(" ", 1, 0)] * spaced])
    return inner


def _merges(names: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to merge two tokens into a third, by decreasing score of the third.

    SentencePiece merges the neighbours whose joint token has the highest score; a BPE merges those
    whose merge comes first.
    """
    known = {name: token for token, name in enumerate(names)}
    ranked = [
        (-scores[token], known[name[:at]], known[name[at:]], name[:at], name[at:])
        for name, token in known.items()
        for at in range(1, len(name))
        if name[:at] in known and name[at:] in known
    ]
    return [(left, right) for *_, left, right in sorted(ranked)]


def _add_specials(inner: tokenizers.Tokenizer, metadata: _Metadata) -> None:
    """Control and user-defined tokens are recognised before anything is merged."""
    names = metadata.tokens()
    types = metadata.array("token_type", int, len(names)) if metadata.get("token_type") else []
    of_type = {
        wanted: [name for name, kind in zip(names, types, strict=False) if kind == wanted]
        for wanted in (CONTROL, USER_DEFINED)
    }
    for wanted, add in ((CONTROL, inner.add_special_tokens), (USER_DEFINED, inner.add_tokens)):
        special = wanted == CONTROL
        add([tokenizers.AddedToken(n, special=special, normalized=False) for n in of_type[wanted]])


def _add_bos(inner: tokenizers.Tokenizer, metadata: _Metadata, *, default: bool) -> None:
    """Put the begin-of-text token before texts, if the model wants it."""
    bos, wanted = metadata.token("bos_token_id"), metadata.get("add_bos_token")
    if bos is None or not (default if wanted is None else wanted):
        return
    name = metadata.tokens()[bos]
    inner.post_processor = processors.TemplateProcessing(
        single=f"{name} $A", pair=f"{name} $A {name} $B", special_tokens=[(name, bos)]
    )
