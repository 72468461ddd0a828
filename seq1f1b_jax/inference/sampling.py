"""Text sampled from a model."""

from collections.abc import Container, Iterator
from datetime import datetime
from itertools import chain, takewhile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.tokenizer import Tokenizer
from seq1f1b_jax.data.tokenizer.chat.template import load_template
from seq1f1b_jax.data.tokenizer.chat.turns import end_of_turn
from seq1f1b_jax.host.stdout import Output
from seq1f1b_jax.inference.generate import stream
from seq1f1b_jax.pipeline.stage import Params, Stage


def encode(prompt: str, tokenizer: Tokenizer | None) -> np.ndarray:
    """Prompt to tokens `[1, T]`; without a tokenizer it holds token ids separated by spaces.

    Raises:
      UserError: an empty prompt, or words that are not token ids.

    Example:
      >>> from seq1f1b_jax.data import load_tokenizer
      >>> encode("ab", load_tokenizer("bytes")).tolist(), encode("5 17", None).tolist()
      ([[97, 98]], [[5, 17]])
    """
    if not prompt:
        raise UserError("the prompt is empty; give at least one character with --prompt")
    if tokenizer is not None:
        return np.asarray([tokenizer.encode(prompt)], np.int32)
    words = prompt.split()
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise UserError(
            f"prompt {prompt!r}: this model was trained on token ids, not on text; give "
            "token ids separated by spaces"
        )
    return np.asarray([[int(word) for word in words]], np.int32)


class Prompt(NamedTuple):
    """What to continue.

    Attributes:
      tokens: `[1, T]`.
      shown: what is printed before the continuation.
      stops: ids that end it.
    """

    tokens: np.ndarray
    shown: str
    stops: tuple[int, ...]


def text_prompt(prompt: str, tokenizer: Tokenizer | None) -> Prompt:
    """A text to continue, or token ids where there is no tokenizer.

    Raises:
      UserError: an empty prompt, or words that are not token ids.
    """
    return Prompt(encode(prompt, tokenizer), prompt, () if tokenizer is None else tokenizer.stops)


def chat_prompt(
    message: str, tokenizer: Tokenizer | None, *, system: str | None = None
) -> Prompt:
    """A user's turn to answer, written by the tokenizer's chat template; nothing is shown of it.

    An answer ends with any of the tokenizer's ends, or where the template ends a turn.

    Args:
      message: what the user says.
      tokenizer: of the model.
      system: instructions before it.

    Raises:
      UserError: no tokenizer, no template, or one that refuses these turns.
    """
    if tokenizer is None or not tokenizer.chat.templates:
        what = "was trained on token ids" if tokenizer is None else "has no chat template"
        raise UserError(
            f"--chat needs a chat template, and the model {what}; prepare its data with the "
            "tokenizer of a model that has one, or leave --chat out"
        )
    template = load_template(tokenizer.chat, now=datetime.now())
    first = [] if system is None else [{"role": "system", "content": system}]
    messages = [*first, {"role": "user", "content": message}]
    ids, _ = tokenizer.encode_spans(template.render(messages, prompt=True).text)
    end = end_of_turn(template, tokenizer)
    stops = (*tokenizer.stops, *([] if end is None else [end]))
    return Prompt(np.asarray([ids], np.int32), "", stops)


def pieces(
    tokens: Iterator[int], tokenizer: Tokenizer | None, *, stops: Container[int] = ()
) -> Iterator[str]:
    """Tokens to printable text, as they come, up to the end of the document.

    Control characters other than line feed and tab become U+FFFD: an untrained model writes any
    byte, and a terminal would obey some of them.

    Args:
      tokens: as they are sampled.
      tokenizer: of the model; None: their ids are written.
      stops: ids that end the text.

    Example:
      >>> from seq1f1b_jax.data import load_tokenizer
      >>> list(pieces(iter([104, 105, 7, 0, 33]), load_tokenizer("bytes"), stops=(0,)))
      ['h', 'i', '\ufffd', '']
    """
    if tokenizer is None:
        yield from (f"{token} " for token in tokens)
        return
    decoder = tokenizer.decode_stream()
    for token in takewhile(lambda token: token not in stops, tokens):
        yield _printable(decoder.step(token))
    yield _printable(decoder.finish())


def sample_text(
    stage: Stage, params: Params, prompt: Prompt, *, num_tokens: int, seed: int,
    temperature: float, top_p: float, tokenizer: Tokenizer | None, output: Output,
) -> None:
    """Print a prompt and its continuation, piece by piece, until the reader is gone.

    `params` are topology-free, arrays or `Rows`; `tokenizer` is the model's, `None` for token ids.
    """
    tokens = stream(
        stage, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), params), prompt.tokens,
        num_tokens=num_tokens, key=jax.random.key(seed), temperature=temperature, top_p=top_p,
    )
    sampled = pieces((int(token[0]) for token in tokens), tokenizer, stops=prompt.stops)
    written = chain([prompt.shown], sampled, ["\n"])
    for text in takewhile(lambda _: output.lost is None, written):
        write_now(text, output)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def write_now(text: str, output: Output) -> None:
    """Print and flush; characters that the terminal's encoding lacks become `?`."""
    encoding = output.encoding or "utf-8"
    output.write(text.encode(encoding, "replace").decode(encoding))
    output.flush()
