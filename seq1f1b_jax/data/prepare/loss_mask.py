"""The tokens of a document, and which of them count for the loss.

a text                   every token; no mask is kept
a prompt, its answer     tokens of both, encoded apart; the answer and the end count
a conversation           tokens of its rendering; the assistant's turns count
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt, UInt8

from seq1f1b_jax.data.prepare.job import KEEP
from seq1f1b_jax.data.prepare.pieces import encode_text
from seq1f1b_jax.data.prepare.readers.fields import (
    MESSAGES,
    TEXT,
    Answered,
    Conversation,
    Document,
    Fields,
    text_fault,
)
from seq1f1b_jax.data.tokenizer import Tokenizer
from seq1f1b_jax.data.tokenizer.chat.template import Refused, load_template
from seq1f1b_jax.data.tokenizer.chat.turns import find_turns, tokens_within


class Encoding(NamedTuple):
    """Tokens of a document.

    Attributes:
      tokens: in parts.
      counted: of each token, 1 if it counts as a target; None: all do.
      num_bytes: UTF-8 bytes of its text.
      num_special: special tokens spelled in it.
    """

    tokens: Sequence[UInt[np.ndarray, " part"]]
    counted: UInt8[np.ndarray, " num_tokens"] | None
    num_bytes: int
    num_special: int

    @property
    def num_tokens(self) -> int:
        """Tokens of all parts."""
        return sum(part.size for part in self.tokens)


class Encoder:
    """Encodes documents.

    Args:
      tokenizer: whose tokens they become.
      dtype: dtype of the ids.
      fields: what a document is.
      specials: whether special tokens spelled in texts are `text`, or `keep` their ids.
      now: what a chat template is told when it asks for the time.

    Raises:
      UserError: conversations, and the tokenizer has no chat template.
    """

    def __init__(
        self, tokenizer: Tokenizer, dtype: np.dtype, *, fields: Fields, specials: str, now: datetime
    ):
        self._tokenizer, self._dtype, self._keep = tokenizer, dtype, specials == KEEP
        self._spellings = spelling_pattern(tokenizer.special_names)
        self.masks = fields.kind != TEXT
        chat = tokenizer.chat if fields.kind == MESSAGES else None
        self._template = chat and load_template(chat, now=now)

    def encode(
        self, document: Document, *, opens: bool = True, closes: bool = True
    ) -> Encoding | None:
        """Tokens of a document, or of a part of a text; None if it is empty.

        Args:
          document: what was read.
          opens: whether a text begins here.
          closes: whether it ends here.

        Raises:
          Refused: a conversation whose tokens that count are not certain.
        """
        if isinstance(document, Conversation):
            return self._conversation(document) if document.messages else None
        prompt, text = document if isinstance(document, Answered) else ("", document)
        parts = list(self._parts(text))
        if not parts:
            return None
        eos = self._tokenizer.eos
        before = [self._ids(self._tokenizer.prefix if opens else ()), *self._parts(prompt)]
        after = [*parts, self._ids((eos,) if closes and eos is not None else ())]
        num_special = self._count(prompt) + self._count(text)
        num_bytes = len(prompt.encode()) + len(text.encode())
        counted = None
        if isinstance(document, Answered):
            sizes = [sum(part.size for part in side) for side in (before, after)]
            counted = _without_first(np.repeat(np.array([0, 1], np.uint8), sizes))
        return Encoding([*before, *after], counted, num_bytes, num_special)

    def _conversation(self, conversation: Conversation) -> Encoding:
        turns = find_turns(self._template, conversation.messages)
        if fault := text_fault(turns.text):
            raise Refused(fault)
        ids, characters = self._tokenizer.encode_spans(turns.text)
        counted = _without_first(tokens_within(turns.spans, characters).astype(np.uint8))
        if not counted.any():
            raise Refused("the chat template writes nothing of the assistant's turns")
        spelled = sum(map(self._count, _texts(conversation.messages)))
        return Encoding([self._ids(ids)], counted, len(turns.text.encode()), spelled)

    def _parts(self, text: str) -> Iterator[UInt[np.ndarray, " part"]]:
        return encode_text(self._tokenizer, text, self._dtype, keep_specials=self._keep)

    def _ids(self, ids: Sequence[int]) -> UInt[np.ndarray, " ids"]:
        return np.array(ids, self._dtype)

    def _count(self, text: str) -> int:
        return sum(1 for _ in self._spellings.finditer(text)) if self._spellings else 0


def spelling_pattern(names: Sequence[str]) -> re.Pattern[str] | None:
    """Matches special tokens spelled in a text, longest first; None if there are no such tokens.

    Example:
      >>> from seq1f1b_jax.data.prepare.loss_mask import spelling_pattern
      >>> len(spelling_pattern(["<s>", "</s>"]).findall("<s> not <<s>, </s>"))
      3
    """
    longest_first = sorted(filter(None, names), key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def _without_first(counted: UInt8[np.ndarray, " n"]) -> UInt8[np.ndarray, " n"]:
    """The first token of a document follows nothing in it, so it is no target."""
    counted[:1] = 0
    return counted


def _texts(messages: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The texts of messages, which may be in parts."""
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else [content]:
            text = part.get("text") if isinstance(part, dict) else part
            if isinstance(text, str):
                yield text
