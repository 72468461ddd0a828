"""Text from a trained model, outside the pipeline."""

from collections.abc import Callable, Iterator
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from seq1f1b_jax.config import UserError
from seq1f1b_jax.pipeline.stage import Params, Stage

NUM_BYTES = 256


class Stream(Protocol):
    """A model's sampler: sampled tokens one position at a time (`models.generate.stream`)."""

    def __call__(
        self, stage: Stage, params: Params, prompt_tokens: Int[Array, "B T"], *, num_tokens: int,
        key: PRNGKeyArray, temperature: float, top_p: float,
    ) -> Iterator[Int[Array, "B"]]: ...


def encode(prompt: str, *, is_text: bool) -> np.ndarray:
    """Prompt to tokens `[1, T]`: UTF-8 bytes for a model of text, else numbers.

    Raises:
      UserError: an empty prompt, or words that are not token ids.
    """
    if not prompt:
        raise UserError("the prompt is empty; give at least one character with --prompt")
    if is_text:
        return np.frombuffer(prompt.encode(), np.uint8).astype(np.int32)[None]
    words = prompt.split()
    if not all(word.isdigit() for word in words):
        raise UserError(
            f"prompt {prompt!r}: this model was trained on token ids, not on text; give "
            "numbers separated by spaces"
        )
    return np.asarray([[int(word) for word in words]], np.int32)


def pieces(tokens: Iterator[int], *, is_text: bool) -> Iterator[str]:
    """Tokens to text that is safe to print, as they come: bytes are decoded as UTF-8.

    Control characters other than line feed and tab become U+FFFD: a model early in its training
    writes any byte, and a terminal would obey some of them.
    """
    if not is_text:
        yield from (f"{token} " for token in tokens)
        return
    import codecs

    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        # a vocabulary may have more rows than there are bytes
        text = decoder.decode(bytes([token])) if token < NUM_BYTES else "\ufffd"
        yield "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def sample_text(
    stage: Stage, params: Params, prompt: str, *, stream: Stream, num_tokens: int, seed: int,
    temperature: float, top_p: float, is_text: bool, write: Callable[[str], None],
) -> None:
    """Write the prompt and its continuation, piece by piece; `params` are topology-free.

    `is_text`: whether the model was trained on bytes of text, or on token ids.
    """
    tokens = stream(
        stage, jax.tree.map(jnp.asarray, params), encode(prompt, is_text=is_text),
        num_tokens=num_tokens, key=jax.random.key(seed), temperature=temperature, top_p=top_p,
    )
    write(prompt)
    for piece in pieces((int(token[0]) for token in tokens), is_text=is_text):
        write(piece)
    write("\n")
