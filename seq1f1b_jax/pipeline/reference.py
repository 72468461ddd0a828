"""The slow obvious twin: the same model on whole sequences, unpipelined, under plain autodiff."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from seq1f1b_jax.ops.loss import cross_entropy_reference
from seq1f1b_jax.pipeline.stage import Params, Stage


def naive_attention(
    q: Float[Array, "B T Hq D"], k: Float[Array, "B T Hkv D"], v: Float[Array, "B T Hkv D"]
) -> Float[Array, "B T Hq D"]:
    """Textbook causal attention; keys and values are repeated over the groups of queries."""
    groups = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, groups, axis=2), jnp.repeat(v, groups, axis=2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    causal = jnp.tril(jnp.ones((q.shape[1], k.shape[1]), bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v)


def hidden(
    stage: Stage, params: Params, tokens: Int[Array, "B T"], *, attention=naive_attention
) -> Float[Array, "B T d"]:
    """Output of the last layer for whole sequences; `params` in the topology-free layout."""
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    context = stage.context(positions)
    x = stage.embed(params.first, params.embedding[tokens], positions)

    def layer_step(x, layer):
        return stage.post(layer, x, attention(*stage.pre(layer, x, context))), None

    return jax.lax.scan(layer_step, x, params.layers)[0]


def reference_loss(
    stage: Stage,
    params: Params,
    tokens: Int[Array, "M B T"],
    targets: Int[Array, "M B T"],
    *,
    compute_dtype: DTypeLike = jnp.float32,
    attention=naive_attention,
) -> Float[Array, ""]:
    """Mean loss over targets of all microbatches; differentiate it with `jax.grad`."""
    params = jax.tree.map(lambda leaf: leaf.astype(compute_dtype), params)
    head = params.embedding if params.head is None else params.head
    tokens, targets = (a.reshape(-1, a.shape[-1]) for a in (tokens, targets))
    y = hidden(stage, params, tokens, attention=attention)
    total = cross_entropy_reference(stage.final, params.last, head, y, targets)
    return total / jnp.maximum(jnp.sum(targets >= 0), 1)
