"""What a batch of tokens must be, before anything is computed from it."""

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Int

from seq1f1b_jax.ops.axes import DATA

Tokens = Int[jax.Array | np.ndarray, "M B T"]


def check_batch(
    tokens: Tokens, targets: Tokens, starts: Tokens | None, *, chunk_lengths: tuple[int, ...],
    num_pipelines: int,
) -> None:
    """Refuse shapes that do not fit the step.

    Args:
      tokens: token ids.
      targets: ids of the next tokens.
      starts: position of the first token of every token's document.
      chunk_lengths: tokens of each chunk.
      num_pipelines: that share the sequences.

    Raises:
      ValueError: one does not.
    """
    seq_len = sum(chunk_lengths)
    if tokens.ndim != 3 or tokens.shape[2] != seq_len:
        raise ValueError(
            f"tokens of shape {tokens.shape} must be [num_microbatches, sequences, {seq_len}]: "
            f"the chunks {chunk_lengths} cover {seq_len} tokens"
        )
    if targets.shape != tokens.shape:
        raise ValueError(
            f"targets of shape {targets.shape} must have that of the tokens, {tokens.shape}; "
            "targets are the next tokens, with -1 where there is none"
        )
    if tokens.shape[1] % num_pipelines:
        raise ValueError(
            f"a microbatch of {tokens.shape[1]} sequences cannot be spread over "
            f"{num_pipelines} pipelines (mesh axis {DATA!r}); use a multiple of {num_pipelines}"
        )
    if starts is not None and starts.shape != tokens.shape:
        raise ValueError(
            f"starts of shape {starts.shape} must have that of the tokens, {tokens.shape}; "
            "they are the position of the first token of every token's document"
        )


def check_ids(tokens: Tokens, targets: Tokens, *, vocab_size: int) -> None:
    """Refuse ids outside the vocabulary, where arrays have values: under `jax.jit` they have none.

    Raises:
      ValueError: the first such id, and where it is.

    Example:
      >>> import jax.numpy as jnp
      >>> check_ids(jnp.array([[[3, 9]]]), jnp.array([[[9, -1]]]), vocab_size=8)
      Traceback (most recent call last):
      ValueError: tokens[0, 0, 1] is 9; token ids must be at least 0 and below vocab_size=8
    """
    for name, ids, lowest in (("tokens", tokens, 0), ("targets", targets, None)):
        if not _has_values(ids):
            continue
        values = np.asarray(ids)
        outside = values >= vocab_size if lowest is None else (values < 0) | (values >= vocab_size)
        if outside.any():
            at = np.argwhere(outside)[0].tolist()
            rule = "targets must be" if lowest is None else "token ids must be at least 0 and"
            raise ValueError(
                f"{name}{at} is {values[tuple(at)]}; {rule} below vocab_size={vocab_size}"
                + ", a negative one carries no loss" * (lowest is None)
            )


def _has_values(ids: Tokens) -> bool:
    """Whether they can be read here; parts of an array may be in another process."""
    if isinstance(ids, Tracer):
        return False
    return not isinstance(ids, jax.Array) or ids.is_fully_addressable
