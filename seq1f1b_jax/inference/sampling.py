"""Text sampled from a model."""

from collections.abc import Iterator
from itertools import chain, takewhile

import jax
import jax.numpy as jnp
import numpy as np

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.tokenizer import Tokenizer
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


def pieces(tokens: Iterator[int], tokenizer: Tokenizer | None) -> Iterator[str]:
    """Tokens to printable text, as they come, up to the end of the document.

    Control characters other than line feed and tab become U+FFFD: an untrained model writes any
    byte, and a terminal would obey some of them.

    Example:
      >>> from seq1f1b_jax.data import load_tokenizer
      >>> list(pieces(iter([104, 105, 7, 0, 33]), load_tokenizer("bytes")))  # 0 is the end
      ['h', 'i', '\ufffd', '']
    """
    if tokenizer is None:
        yield from (f"{token} " for token in tokens)
        return
    decoder = tokenizer.decode_stream()
    for token in takewhile(lambda token: token != tokenizer.eos, tokens):
        yield _printable(decoder.step(token))
    yield _printable(decoder.finish())


def sample_text(
    stage: Stage, params: Params, prompt: str, *, num_tokens: int, seed: int, temperature: float,
    top_p: float, tokenizer: Tokenizer | None, output: Output,
) -> None:
    """Print the prompt and its continuation, piece by piece, until the reader is gone.

    `params` are topology-free, arrays or `Rows`; `tokenizer` is the model's, `None` for token ids.
    """
    tokens = stream(
        stage, jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), params),
        encode(prompt, tokenizer),
        num_tokens=num_tokens, key=jax.random.key(seed), temperature=temperature, top_p=top_p,
    )
    written = chain([prompt], pieces((int(token[0]) for token in tokens), tokenizer), ["\n"])
    for text in takewhile(lambda _: output.lost is None, written):
        write_now(text, output)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def write_now(text: str, output: Output) -> None:
    """Print and flush; characters that the terminal's encoding lacks become `?`."""
    encoding = output.encoding or "utf-8"
    output.write(text.encode(encoding, "replace").decode(encoding))
    output.flush()
