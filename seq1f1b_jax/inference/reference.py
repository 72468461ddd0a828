"""The yardstick of exactness: loss on whole sequences with dense attention, for `jax.grad`."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from seq1f1b_jax.inference.forward import forward
from seq1f1b_jax.ops.loss import cross_entropy_reference
from seq1f1b_jax.pipeline.batch import Tokens, check_ids
from seq1f1b_jax.pipeline.stage import Params, Stage, window_of


def naive_attention(
    q: Float[Array, "B T Hq D"],
    k: Float[Array, "B T Hkv D"],
    v: Float[Array, "B T Hkv D"],
    *,
    starts: Int[Array, "B T"] | None = None,
    window: int | None = None,
) -> Float[Array, "B T Hq D"]:
    """Textbook causal attention; keys and values are repeated over the groups of queries.

    `starts` and `window` as in `ops.attention`.
    """
    groups = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, groups, axis=2), jnp.repeat(v, groups, axis=2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    query, key = jnp.arange(q.shape[1])[:, None], jnp.arange(k.shape[1])
    mask = key <= query
    if window is not None:
        mask &= query - key < window
    if starts is not None:
        mask = mask & (key >= starts[:, None, :, None])
    weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


def reference_loss(
    stage: Stage,
    params: Params,
    tokens: Tokens,
    targets: Tokens,
    starts: Tokens | None = None,
    *,
    compute_dtype: DTypeLike = jnp.float32,
    attention: Callable | None = None,
    restart_positions: bool = False,
) -> Float[Array, ""]:
    """Mean loss over targets of all microbatches; differentiate it with `jax.grad`.

    Args:
      stage: the model.
      params: its parameters in the topology-free layout.
      tokens: token ids.
      targets: next tokens; below zero is ignored.
      starts: position of the first token of every token's document; `None`: one document.
      compute_dtype: what parameters are cast to.
      attention: `(q, k, v) -> out`; `None`: textbook attention, masked by documents and window.
      restart_positions: whether positions count from the start of the document.

    Raises:
      ValueError: ids outside the vocabulary, where the arrays have values.
    """
    check_ids(tokens, targets, vocab_size=stage.vocab_size)
    params = jax.tree.map(lambda leaf: leaf.astype(compute_dtype), params)
    head = params.embedding if params.head is None else params.head
    tokens, targets = (a.reshape(-1, a.shape[-1]) for a in (tokens, targets))
    starts = None if starts is None else starts.reshape(-1, starts.shape[-1])
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    if restart_positions and starts is not None:
        positions = positions - starts
    attend = attention or partial(naive_attention, starts=starts, window=window_of(stage))
    y, _ = forward(
        stage, params, tokens, positions=positions,
        attention=lambda q, k, v, _: (attend(q, k, v), None),
    )
    total = cross_entropy_reference(stage.final, params.last, head, y, targets)
    return total / jnp.maximum(jnp.sum(targets >= 0), 1)
