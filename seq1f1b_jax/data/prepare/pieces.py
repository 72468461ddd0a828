"""A long document to tokens, a piece at a time: its memory is that of the text, not of its words.

The library takes over a hundred bytes of memory for every byte of a text. So a long one is cut
where the words end that the tokenizer merges tokens within, and the tokens are those of the whole.
A place is taken only if the words around it, and their tokens, are the same with and without the
cut. Of a tokenizer that may look past the ends of words (`can_cut_text` is false) no text is cut.
"""

import re
from collections.abc import Iterator
from itertools import islice

import numpy as np

from seq1f1b_jax.data.tokenizer import Tokenizer

PIECE_CHARACTERS = 1 << 18
CONTEXT = 1 << 9  # characters on both sides of a place that are looked at
TRIED = 16  # places of one kind, behind every piece
_PLACES = (
    re.compile(r"[A-Za-z](?= [A-Za-z])"),
    re.compile(r"[^\W\d_](?= [^\W\d_])"),
    # never behind a space: how a run of them is cut depends on what follows, however long it is
    re.compile(r"\S(?=\s)|\w(?=\W)|[^\w\s](?=\w)"),
)


def encode_text(
    tokenizer: Tokenizer, text: str, dtype: np.dtype, *, keep_specials: bool = False
) -> Iterator[np.ndarray]:
    """Token ids of a document, in parts that follow each other; none where there are none.

    Args:
      tokenizer: makes them.
      text: the document.
      dtype: of the ids.
      keep_specials: whether special tokens that are spelled in the text become their ids.

    Example:
      >>> import numpy as np
      >>> from seq1f1b_jax.data import load_tokenizer
      >>> from seq1f1b_jax.data.prepare.pieces import encode_text
      >>> [ids.tolist() for ids in encode_text(load_tokenizer("bytes"), "hi", np.dtype("u2"))]
      [[104, 105]]
    """
    for piece in cut_text(tokenizer, text):
        if keep_specials:
            # a prompt begins with the prefix, a piece of a document does not
            ids = np.array(tokenizer.encode(piece)[len(tokenizer.prefix) :], dtype)
        else:
            ids = tokenizer.array(piece, dtype)
        if ids.size:
            yield ids


def cut_text(tokenizer: Tokenizer, text: str) -> Iterator[str]:
    """Pieces of a text whose tokens are those of the whole."""
    start = 0
    if tokenizer.can_cut_text:
        while (stop := _place(tokenizer, text, start)) is not None:
            yield text[start:stop]
            start = stop
    yield text[start:] if start else text


def _place(tokenizer: Tokenizer, text: str, start: int) -> int | None:
    """Where the piece that begins at `start` ends; None: with the text."""
    at = start + PIECE_CHARACTERS
    while at < len(text):
        # a place is looked for near by, so that a text without one kind takes the next kind
        near = at + max(1, PIECE_CHARACTERS // 4)
        for pattern in _PLACES:
            for found in islice(pattern.finditer(text, at, near), TRIED):
                if _ends_word(tokenizer, text, found.end()):
                    return found.end()
        at = near
    return None


def _ends_word(tokenizer: Tokenizer, text: str, at: int) -> bool:
    """Whether words and tokens around a place are those of what is before and what is behind."""
    left, right = text[max(0, at - CONTEXT) : at], text[at : at + CONTEXT]
    if tokenizer.words(left + right) != tokenizer.words(left) + tokenizer.words(right):
        return False
    for specials in (False, True):
        both, before, behind = (
            tokenizer.encode(part, specials=specials) for part in (left + right, left, right)
        )
        if both != before + behind[len(tokenizer.prefix) if specials else 0 :]:
            return False
    return True
