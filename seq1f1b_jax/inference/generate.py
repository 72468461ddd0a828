"""Sampling tokens: the prompt in one pass, then one token at a time over a key/value cache."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from seq1f1b_jax.inference.forward import Cache, Layer, caching_attention, forward, head
from seq1f1b_jax.pipeline.stage import Params, Stage, max_positions_of


class Sampler(NamedTuple):
    """How the next token is chosen; traced, so that a new value does not recompile."""

    key: PRNGKeyArray
    temperature: Float[Array, ""]
    top_p: Float[Array, ""]


def generate(
    stage: Stage,
    params: Params,
    prompt_tokens: Int[Array, "B T"],
    *,
    num_tokens: int,
    key: PRNGKeyArray,
    temperature: float = 1.0,
    top_p: float = 1.0,
    attention: str = "xla_blockwise",
) -> Int[Array, "B num_tokens"]:
    """`num_tokens` sampled tokens after each prompt; see `stream`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from seq1f1b_jax.models import build_stage
      >>> stage = build_stage("llama", preset="tiny")
      >>> params = jax.jit(stage.init)(jax.random.key(0))
      >>> prompt, key = jnp.ones((2, 5), jnp.int32), jax.random.key(1)
      >>> generate(stage, params, prompt, num_tokens=3, key=key).shape
      (2, 3)
    """
    tokens = stream(
        stage, params, prompt_tokens, num_tokens=num_tokens, key=key, temperature=temperature,
        top_p=top_p, attention=attention,
    )
    return jnp.stack(list(tokens), axis=1)


def stream(
    stage: Stage,
    params: Params,
    prompt_tokens: Int[Array, "B T"],
    *,
    num_tokens: int,
    key: PRNGKeyArray,
    temperature: float = 1.0,
    top_p: float = 1.0,
    attention: str = "xla_blockwise",
) -> Iterator[Int[Array, "B"]]:
    """Sampled tokens one position at a time, as device arrays that may still be computing.

    Args:
      stage: the model.
      params: its parameters, in the dtype to compute in.
      prompt_tokens: prompts of equal length, at least one token.
      num_tokens: tokens to sample.
      key: randomness; token `i` depends on `(key, i)`.
      temperature: divides the logits; 0 takes the most likely token.
      top_p: samples among the fewest tokens whose probabilities add up to it; 1 is all of them.
      attention: backend for the prompt.

    Raises:
      ValueError: a stage that cannot be hashed, an empty prompt, tokens outside the vocabulary, a
        setting out of range, or more tokens than learned positions.

    Source of `top_p`: Holtzman et al., arXiv 1904.09751, section 3.1.
    """
    prompt = np.asarray(prompt_tokens)
    _check_hashable(stage)
    _check_settings(num_tokens, temperature, top_p)
    _check_prompt(stage, prompt, num_tokens)
    return _stream(
        stage, params, prompt, num_tokens, Sampler(key, temperature, top_p),
        attention=attention, greedy=temperature == 0,
    )


def _stream(stage, params, prompt_tokens, num_tokens, sampler, *, attention, greedy):
    if num_tokens == 0:
        return
    capacity = prompt_tokens.shape[1] + num_tokens - 1
    tokens, cache = _prefill(
        stage, params, prompt_tokens, sampler,
        capacity=capacity, attention=attention, greedy=greedy,
    )
    yield tokens
    for index in range(1, num_tokens):
        position = prompt_tokens.shape[1] + index - 1
        tokens, cache = _decode(
            stage, params, tokens, cache, position, index, sampler, greedy=greedy
        )
        yield tokens


@partial(jax.jit, static_argnames=("stage", "capacity", "attention", "greedy"))
def _prefill(stage, params, prompt_tokens, sampler, *, capacity, attention, greedy):
    """First token after the prompt, and a cache of `capacity` positions that holds the prompt."""
    y, cache = forward(
        stage, params, prompt_tokens, attention=caching_attention(attention)
    )
    space = capacity - prompt_tokens.shape[1]
    padding = ((0, 0), (0, 0), (0, space), (0, 0), (0, 0))
    cache = jax.tree.map(lambda entries: jnp.pad(entries, padding), cache)
    return _sample(head(stage, params, y[:, -1:])[:, 0], 0, sampler, greedy=greedy), cache


@partial(jax.jit, static_argnames=("stage", "greedy"), donate_argnames=("cache",))
def _decode(stage, params, tokens, cache, position, index, sampler, *, greedy):
    """Token `index` after the prompt from the token before it, whose position is given."""
    y, cache = decode_step(stage, params, tokens, cache=cache, position=position)
    return _sample(head(stage, params, y)[:, 0], index, sampler, greedy=greedy), cache


def decode_step(
    stage: Stage, params: Params, tokens: Int[Array, "B"], *, cache: Cache,
    position: Int[Array, ""],
) -> tuple[Float[Array, "B 1 d"], Cache]:
    """Output of the last layer for one more token per sequence; its keys and values are cached.

    Args:
      stage: the model.
      params: its parameters, in the dtype to compute in.
      tokens: the tokens at `position`.
      cache: keys and values of every earlier position.
      position: index of the tokens, below the cache's length.
    """

    def attention(q, k, v, layer: Layer):
        cache = layer.cache
        keys = lax.dynamic_update_slice_in_dim(cache.keys, k, position, axis=1)
        values = lax.dynamic_update_slice_in_dim(cache.values, v, position, axis=1)
        return _attend_one(q, keys, values, position, layer), Cache(k, v)

    y, new = forward(
        stage, params, tokens[:, None], attention=attention, cache=cache,
        positions=jnp.asarray(position, jnp.int32)[None],
    )
    insert = partial(lax.dynamic_update_slice_in_dim, start_index=position, axis=2)
    return y, jax.tree.map(insert, cache, new)


def _attend_one(q, keys, values, position, layer: Layer):
    """Attention of the query at `position` over a layer's cache."""
    batch, _, num_heads, head_dim = q.shape
    groups, scoring = keys.shape[2], layer.scoring
    dtype = jnp.promote_types(jnp.float32, q.dtype)
    q = q.reshape(batch, groups, -1, head_dim)
    scores = jnp.einsum("bhgd,bshd->bhgs", q, keys, preferred_element_type=dtype)
    scores, _ = scoring.cap(scores * scoring.scale_of(head_dim))
    index = jnp.arange(keys.shape[1])
    bias = scoring.bias(
        (position - index)[None], num_heads=num_heads, num_kv_heads=groups, dtype=dtype
    )
    scores = scores if bias is None else scores + bias
    visible = index <= position
    if scoring.window is not None:
        visible &= index > position - scoring.window
    scores = jnp.where(visible, scores, -jnp.inf)
    if layer.sinks is not None:
        sinks = layer.sinks.astype(dtype).reshape(groups, -1, 1)
        shape = (*scores.shape[:3], 1)
        scores = jnp.concatenate([scores, jnp.broadcast_to(sinks, shape)], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1)[..., : index.size].astype(q.dtype)
    out = jnp.einsum("bhgs,bshd->bhgd", weights, values, preferred_element_type=dtype)
    return out.reshape(batch, 1, -1, head_dim).astype(q.dtype)


def _sample(logits, index, sampler, *, greedy):
    if greedy:
        return logits.argmax(-1).astype(jnp.int32)
    logits = logits / sampler.temperature
    logits = jnp.where(sampler.top_p < 1, _nucleus(logits, sampler.top_p), logits)
    key = jax.random.fold_in(sampler.key, index)
    return jax.random.categorical(key, logits).astype(jnp.int32)


def _nucleus(logits, top_p):
    """Logits with `-inf` below the least likely token that `top_p` needs."""
    descending = -jnp.sort(-logits, axis=-1)
    probabilities = jax.nn.softmax(descending, axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    threshold = jnp.where(before < top_p, descending, jnp.inf).min(-1, keepdims=True)
    return jnp.where(logits < threshold, -jnp.inf, logits)


def _check_hashable(stage):
    try:
        hash(stage)
    except TypeError as error:
        raise ValueError(
            f"{type(stage).__name__} cannot be hashed ({error}), and a program is compiled once "
            "per stage; make it a frozen dataclass of numbers, strings and tuples"
        ) from None


def _check_settings(num_tokens, temperature, top_p):
    if num_tokens < 0:
        raise ValueError(f"num_tokens={num_tokens} is negative; use 0 or more")
    if temperature < 0:
        raise ValueError(f"temperature={temperature} is negative; use 0 (likeliest token) or more")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} is not in (0, 1]; use 1 for no limit")


def _check_prompt(stage, prompt_tokens, num_tokens):
    shape = prompt_tokens.shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"prompt_tokens has shape {shape}; give [sequences, tokens], both at least 1"
        )
    outside = prompt_tokens[(prompt_tokens < 0) | (prompt_tokens >= stage.vocab_size)]
    if outside.size:
        raise ValueError(
            f"prompt_tokens holds token {outside[0]}, outside vocab_size={stage.vocab_size}; "
            "encode the prompt with the tokenizer of the training data"
        )
    max_positions = max_positions_of(stage)
    needed = shape[1] + num_tokens - 1
    if max_positions is not None and needed > max_positions:
        left = max_positions - shape[1] + 1
        fewer = f"num_tokens={left} or fewer, or " if left > 0 else ""
        raise ValueError(
            f"{shape[1]} prompt tokens and num_tokens={num_tokens} need {needed} positions, but "
            f"the model has learned max_positions={max_positions}; use {fewer}a shorter prompt"
        )
