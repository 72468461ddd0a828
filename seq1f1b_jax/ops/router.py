"""Routers: which experts compute a token, and what is kept of that for balance and backward."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.precision import accumulation_dtype

EXPERTS = "experts"
"""Name of what the backward of routers and experts keeps, for policies of `jax.checkpoint`."""


class RouterSums(NamedTuple):
    """What a router says of the tokens of a chunk, summed over them, in the accumulation dtype.

    Attributes:
      load: tokens of each expert; a count, without a gradient.
      probability: of each expert, before the choice.
      z: squared logarithm of the softmax's denominator.
    """

    load: Float[Array, "B E"]
    probability: Float[Array, "B E"]
    z: Float[Array, "B"]


def route(
    h: Float[Array, "B T d"], kernel: Float[Array, "d E"], num_chosen: int, normalize: bool
) -> tuple[Float[Array, "B T k"], Int[Array, "B T k"], RouterSums]:
    """The experts of every token: the k of the largest softmax, computed in float32.

    Its backward computes logits again, so that nothing is kept but the input.

    Args:
      h: tokens.
      kernel: of the router.
      num_chosen: experts of a token, k.
      normalize: whether the weights of a token's experts are divided by their sum.

    Returns:
      Weights in the accumulation dtype, experts, and the chunk's sums.

    Source: Fedus et al., Switch Transformers, arXiv 2101.03961, section 2.
    """
    return _routed(num_chosen, normalize, h, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _routed(num_chosen: int, normalize: bool, h: Array, kernel: Array):
    return _routed_forward(num_chosen, normalize, h, kernel)[0]


def _routed_forward(num_chosen, normalize, h, kernel):
    _, experts = lax.top_k(_logits(h, kernel), num_chosen)
    experts = checkpoint_name(experts, EXPERTS)
    weights, probability, z = _of_choice(experts, normalize, h, kernel)
    chosen = experts[..., None] == jnp.arange(kernel.shape[1])
    sums = RouterSums(chosen.sum((1, 2)).astype(z.dtype), probability, z)
    return (checkpoint_name(weights, EXPERTS), experts, sums), (h, kernel, experts)


def _routed_backward(num_chosen, normalize, residuals, cotangents):
    weights, _, sums = cotangents
    h, kernel, experts = residuals  # not chosen again: rounding could turn a tie
    _, vjp = jax.vjp(partial(_of_choice, experts, normalize), h, kernel)
    return vjp((weights, sums.probability, sums.z))


_routed.defvjp(_routed_forward, _routed_backward)


def _logits(h: Array, kernel: Array) -> Float[Array, "B T E"]:
    dtype = accumulation_dtype(h.dtype)
    return jnp.einsum("btd,de->bte", h.astype(dtype), kernel.astype(dtype))


def _of_choice(experts: Int[Array, "B T k"], normalize: bool, h: Array, kernel: Array):
    """Weights of these experts, and the sums with a gradient."""
    logits = _logits(h, kernel)
    probability = jax.nn.softmax(logits, axis=-1)
    weights = jnp.take_along_axis(probability, experts, axis=-1)
    if normalize:
        weights = weights / weights.sum(-1, keepdims=True)
    z = jnp.square(jax.nn.logsumexp(logits, axis=-1)).sum(1)
    return weights, probability.sum(1), z
