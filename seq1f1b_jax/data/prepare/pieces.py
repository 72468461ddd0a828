"""A long document to tokens, a piece at a time, to save memory.

The library takes over a hundred bytes of memory per byte of text. So a long text is cut at the ends
of the words within which the tokenizer merges, which leaves the tokens unchanged. A cut is accepted
only if the words around it, and their tokens, are the same with and without it. A text is never cut
if the tokenizer may look past the ends of words (`can_cut_text` is false).
"""

import re
from collections.abc import Iterator
from itertools import islice

import numpy as np

from seq1f1b_jax.data.tokenizer import Tokenizer

PIECE_CHARACTERS = 1 << 18
CONTEXT = 1 << 9  # characters compared on both sides of a cut
MAX_TRIED = 16  # cuts of one kind, after every piece
_CUTS = (
    re.compile(r"[A-Za-z](?= [A-Za-z])"),
    re.compile(r"[^\W\d_](?= [^\W\d_])"),
    # never after a space: how a run of spaces is split depends on what follows it
    re.compile(r"\S(?=\s)|\w(?=\W)|[^\w\s](?=\w)"),
)


def encode_text(
    tokenizer: Tokenizer, text: str, dtype: np.dtype, *, keep_specials: bool = False
) -> Iterator[np.ndarray]:
    """Token ids of a document, in consecutive non-empty parts.

    Args:
      tokenizer: encodes the text.
      text: the document.
      dtype: dtype of the ids.
      keep_specials: whether special tokens spelled in the text keep their ids.

    Example:
      >>> import numpy as np
      >>> from seq1f1b_jax.data import load_tokenizer
      >>> from seq1f1b_jax.data.prepare.pieces import encode_text
      >>> [ids.tolist() for ids in encode_text(load_tokenizer("bytes"), "hi", np.dtype("u2"))]
      [[104, 105]]
    """
    for piece in cut_text(tokenizer, text):
        if keep_specials:
            # `encode` puts the prefix of a prompt first, which a piece does not have
            ids = np.array(tokenizer.encode(piece)[len(tokenizer.prefix) :], dtype)
        else:
            ids = tokenizer.array(piece, dtype)
        if ids.size:
            yield ids


def cut_text(tokenizer: Tokenizer, text: str) -> Iterator[str]:
    """Pieces of a text that have the tokens of the whole."""
    start = 0
    if tokenizer.can_cut_text:
        while (stop := _next_cut(tokenizer, text, start)) is not None:
            yield text[start:stop]
            start = stop
    yield text[start:] if start else text


def _next_cut(tokenizer: Tokenizer, text: str, start: int) -> int | None:
    """Where the piece that begins at `start` ends; None: at the end of the text."""
    at = start + PIECE_CHARACTERS
    while at < len(text):
        # the search is local, so that a text without one kind of cut tries the next kind
        near = at + max(1, PIECE_CHARACTERS // 4)
        for pattern in _CUTS:
            for found in islice(pattern.finditer(text, at, near), MAX_TRIED):
                if _ends_word(tokenizer, text, found.end()):
                    return found.end()
        at = near
    return None


def _ends_word(tokenizer: Tokenizer, text: str, at: int) -> bool:
    """Whether a cut leaves the words and tokens around it unchanged."""
    left, right = text[max(0, at - CONTEXT) : at], text[at : at + CONTEXT]
    if tokenizer.words(left + right) != tokenizer.words(left) + tokenizer.words(right):
        return False
    for specials in (False, True):
        both, before, after = (
            tokenizer.encode(part, specials=specials) for part in (left + right, left, right)
        )
        if both != before + after[len(tokenizer.prefix) if specials else 0 :]:
            return False
    return True
