"""The model without a pipeline: whole sequences through one scan over layers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.attention import get_backend
from seq1f1b_jax.pipeline.params.positions import embed
from seq1f1b_jax.pipeline.stage import Params, Stage, window_of


class Cache(NamedTuple):
    """Keys and values in the compute dtype, of all layers or of one."""

    keys: Float[Array, "*L B T Hkv D"]
    values: Float[Array, "*L B T Hkv D"]


Attention = Callable[[Array, Array, Array, Cache | None], tuple[Array, Any]]
"""`(q, k, v, cache) -> (out, kept)`: one layer's attention over what `cache` holds of the layer."""


def forward(
    stage: Stage,
    params: Params,
    tokens: Int[Array, "B T"],
    *,
    attention: Attention,
    positions: Int[Array, "*B T"] | None = None,
    cache: Cache | None = None,
) -> tuple[Float[Array, "B T d"], Any]:
    """Output of the last layer for every token, and what `attention` keeps, stacked over layers.

    Args:
      stage: the model.
      params: its parameters, in the dtype to compute in.
      tokens: token ids below `vocab_size`.
      attention: called in every layer between `pre` and `post`.
      positions: of the tokens; `None`: 0 ... T - 1.
      cache: of all layers; each layer's attention is given its part.
    """
    if positions is None:
        positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    context = stage.context(positions)

    def layer_step(x, layer):
        weights, layer_cache = layer
        attended, kept = attention(*stage.pre(weights, x, context), layer_cache)
        return stage.post(weights, x, attended), kept

    x = embed(stage, params.first, jnp.take(params.embedding, tokens, axis=0), positions)
    return jax.lax.scan(layer_step, x, (params.layers, cache))


def caching_attention(stage: Stage, backend: str) -> Attention:
    """A backend's causal attention that keeps the keys and values of its layer."""
    window = window_of(stage)
    attend = get_backend(backend, platform=jax.default_backend(), window=window).forward
    return lambda q, k, v, _: (attend(q, k, v, None)[0], Cache(k, v))


def head(stage: Stage, params: Params, y: Float[Array, "B T d"]) -> Float[Array, "B T vocab_size"]:
    """Logits in float32 (float64 for float64 input) from the output of the last layer."""
    y = stage.final(params.last, y)
    table = params.embedding if params.head is None else params.head
    dtype = jnp.promote_types(jnp.float32, y.dtype)
    return jnp.einsum("...d,vd->...v", y, table, preferred_element_type=dtype)


def logits(
    stage: Stage, params: Params, tokens: Int[Array, "B T"], *, attention: str = "xla_blockwise"
) -> Float[Array, "B T vocab_size"]:
    """Logits of every next token; `attention` names a backend.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from seq1f1b_jax.inference import logits
      >>> from seq1f1b_jax.models import build_stage
      >>> stage = build_stage("gpt", preset="tiny")
      >>> params = jax.jit(stage.init)(jax.random.key(0))
      >>> jax.jit(logits, static_argnums=0)(stage, params, jnp.zeros((1, 5), jnp.int32)).shape
      (1, 5, 64)
    """
    y, _ = forward(stage, params, tokens, attention=caching_attention(stage, attention))
    return head(stage, params, y)
