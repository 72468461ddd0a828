"""The yardstick of exactness: loss on whole sequences with dense attention, for `jax.grad`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from seq1f1b_jax.inference.forward import Layer, routed_forward
from seq1f1b_jax.ops.attention import PLAIN, Scoring
from seq1f1b_jax.ops.loss import LossRule, cross_entropy_reference
from seq1f1b_jax.ops.router import RouterSums
from seq1f1b_jax.pipeline.batch import Tokens, check_ids
from seq1f1b_jax.pipeline.stage import Params, Stage, logit_softcap_of


def naive_attention(
    q: Float[Array, "B T Hq D"],
    k: Float[Array, "B T Hkv D"],
    v: Float[Array, "B T Hkv Dv"],
    *,
    starts: Int[Array, "B T"] | None = None,
    scoring: Scoring = PLAIN,
    sinks: Float[Array, "Hq"] | None = None,
) -> Float[Array, "B T Hq Dv"]:
    """Textbook causal attention; keys and values are repeated over the groups of queries.

    `starts` and `scoring` as in `ops.attention`; a sink is one more score of every query.
    """
    groups = q.shape[2] // k.shape[2]
    k, v = jnp.repeat(k, groups, axis=2), jnp.repeat(v, groups, axis=2)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) * scoring.scale_of(q.shape[-1])
    if scoring.softcap is not None:
        scores = scoring.softcap * jnp.tanh(scores / scoring.softcap)
    query, key = jnp.arange(q.shape[1])[:, None], jnp.arange(k.shape[1])
    if scoring.slopes:
        scores = scores - jnp.asarray(scoring.slopes, q.dtype)[:, None, None] * (query - key)
    mask = key <= query
    if scoring.window is not None:
        mask &= query - key < scoring.window
    if starts is not None:
        mask = mask & (key >= starts[:, None, :, None])
    scores = jnp.where(mask, scores, -jnp.inf)
    if sinks is not None:
        more = jnp.broadcast_to(sinks[:, None, None].astype(scores.dtype), (*scores.shape[:3], 1))
        scores = jnp.concatenate([scores, more], axis=-1)
    weights = jax.nn.softmax(scores, axis=-1)[..., : k.shape[1]]
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
    z_loss: float = 0.0,
    balance_loss: float = 0.0,
    router_z_loss: float = 0.0,
) -> Float[Array, ""]:
    """Mean loss over targets of all microbatches; differentiate it with `jax.grad`.

    Args:
      stage: the model.
      params: its parameters in the topology-free layout.
      tokens: token ids.
      targets: next tokens; below zero is ignored.
      starts: position of the first token of every token's document; `None`: one document.
      compute_dtype: what parameters are cast to.
      attention: `(q, k, v) -> out` of every layer; `None`: textbook attention, with what the
        layer makes of scores, and documents.
      restart_positions: whether positions count from the start of the document.
      z_loss: as in `ExecutorOptions`.
      balance_loss: likewise.
      router_z_loss: likewise.

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

    def attend(q, k, v, layer: Layer):
        if attention is not None:
            return attention(q, k, v), None
        options = {"starts": starts, "scoring": layer.scoring, "sinks": layer.sinks}
        return naive_attention(q, k, v, **options), None

    y, sums = routed_forward(stage, params, tokens, positions=positions, attention=attend)
    rule = LossRule(logit_softcap_of(stage), z_loss)
    total = cross_entropy_reference(stage.final, params.last, head, y, targets, rule)
    loss = total / jnp.maximum(jnp.sum(targets >= 0), 1)
    if isinstance(sums, RouterSums):  # [layers, sequences, experts]
        num_experts, length = sums.load.shape[-1], tokens.shape[1]
        balance = num_experts * (sums.load * sums.probability).sum(-1).mean() / length**2
        loss = loss + balance_loss * balance + router_z_loss * sums.z.mean() / length
    return loss
