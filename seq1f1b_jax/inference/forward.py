"""The model without a pipeline: whole sequences through one scan over layers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.attention import Scoring, get_backend
from seq1f1b_jax.ops.attention.sinks import with_sinks
from seq1f1b_jax.ops.loss import LossRule
from seq1f1b_jax.pipeline.params.positions import embed
from seq1f1b_jax.pipeline.stage import (
    Params,
    Stage,
    kind_stages,
    kinds_of,
    leaf_at,
    logit_softcap_of,
    routed_post,
    scoring_of,
    sinks_of,
)


class Cache(NamedTuple):
    """Keys and values in the compute dtype, of all layers or of one."""

    keys: Float[Array, "*L B T Hkv D"]
    values: Float[Array, "*L B T Hkv D"]


class Layer(NamedTuple):
    """What a layer's attention may use beside queries, keys and values.

    Attributes:
      scoring: how it makes scores.
      sinks: its attention sinks, if it has some.
      cache: what the cache holds of it.
    """

    scoring: Scoring
    sinks: Float[Array, "Hq"] | None
    cache: Cache | None


Attention = Callable[[Array, Array, Array, Layer], tuple[Array, Any]]
"""`(q, k, v, layer) -> (out, kept)`."""


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
    y, (kept, _) = _through_layers(stage, params, tokens, positions, cache, attention)
    return y, kept


def routed_forward(
    stage: Stage,
    params: Params,
    tokens: Int[Array, "B T"],
    *,
    attention: Attention,
    positions: Int[Array, "*B T"] | None = None,
) -> tuple[Float[Array, "B T d"], Any]:
    """As `forward`, with what `routed_post` says of every layer, stacked, for what is kept."""
    y, (_, sums) = _through_layers(stage, params, tokens, positions, None, attention)
    return y, sums


def _through_layers(stage, params, tokens, positions, cache, attention):
    if positions is None:
        positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    kinds, stages = kinds_of(stage), kind_stages(stage)
    runs = [_run(one, one.context(positions), attention) for one in stages.values()]
    numbers = jnp.asarray([list(stages).index(kind) for kind in kinds], jnp.int32)

    def layer_step(x, layer):
        weights, layer_cache, kind = layer
        if len(runs) == 1:
            return runs[0](x, weights, layer_cache)
        return jax.lax.switch(kind, runs, x, weights, layer_cache)

    x = embed(stage, params.first, jnp.take(params.embedding, tokens, axis=0), positions)
    return jax.lax.scan(layer_step, x, (params.layers, cache, numbers))


def _run(stage: Stage, context: Any, attention: Attention) -> Callable:
    """A layer of one kind: `(x, weights, cache) -> (x, (kept, sums))`."""
    scoring, sinks, post = scoring_of(stage), sinks_of(stage), routed_post(stage)

    def run(x, weights, cache):
        layer = Layer(scoring, None if sinks is None else leaf_at(weights, sinks), cache)
        attended, kept = attention(*stage.pre(weights, x, context), layer)
        y, sums = post(weights, x, attended)
        return y, (kept, sums)

    return run


def caching_attention(backend: str) -> Attention:
    """A backend's causal attention that keeps the keys and values of its layer."""

    def attend(q, k, v, layer: Layer):
        chosen = get_backend(backend, platform=jax.default_backend(), scoring=layer.scoring)
        out, lse = chosen.forward(q, k, v, None)
        return with_sinks(out, lse, layer.sinks)[0], Cache(k, v)

    return attend


def head(stage: Stage, params: Params, y: Float[Array, "B T d"]) -> Float[Array, "B T vocab_size"]:
    """Logits in float32 (float64 for float64 input) from the output of the last layer."""
    y = stage.final(params.last, y)
    table = params.embedding if params.head is None else params.head
    dtype = jnp.promote_types(jnp.float32, y.dtype)
    logits = jnp.einsum("...d,vd->...v", y, table, preferred_element_type=dtype)
    return LossRule(softcap=logit_softcap_of(stage)).cap(logits)[0]


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
    y, _ = forward(stage, params, tokens, attention=caching_attention(attention))
    return head(stage, params, y)
