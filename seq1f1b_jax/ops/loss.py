"""Softmax cross-entropy on the last stage, fused over blocks of tokens.

Loss, dY and the head's gradient come out of one pass at forward time, so no logits wait for the
backward and none are larger than one block. For a block of n tokens with h = final(last, y):

    logits = h table^T        loss = sum over targets (logsumexp(logits) - logits[target])
    dlogits = softmax(logits) - onehot(target)           (0 where the target is ignored)
    dh = dlogits table        dtable += dlogits^T h      (dlast, dy) = vjp of final at dh

Where the vocabulary is sharded over the mesh axis `tensor`, each device has the logits of its part:
the largest logit, the sum of exponentials, the target's logit and dh are combined over devices.

Blocks run over the flattened `B*T` tokens, so "one block" means `block_tokens * vocab_size` logits
whatever B is. Losses are sums: divide by `num_targets` of the whole step. A target below zero is
ignored.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.axes import TENSOR
from seq1f1b_jax.ops.blocks import cut
from seq1f1b_jax.ops.precision import accumulation_dtype
from seq1f1b_jax.ops.tensor import own_start

Tree = Any
Final = Callable[[Tree, Array], Array]


@dataclass(frozen=True)
class VocabShard:
    """A head that is sharded over the mesh axis `tensor`: device j has the j-th run of rows.

    Attributes:
      vocab_size: rows that stand for tokens; the runs may end with others, which are left out.
    """

    vocab_size: int

    def ids(self, rows: int) -> Int[Array, "rows"]:
        """Tokens of this device's rows."""
        return own_start(rows) + jnp.arange(rows, dtype=jnp.int32)

    def largest(self, values: Array) -> Array:
        return lax.pmax(values, TENSOR)

    def total(self, values: Tree) -> Tree:
        return lax.psum(values, TENSOR)


@dataclass(frozen=True)
class LossRule:
    """What a loss is made of beside the cross-entropy of softmax(logits).

    Attributes:
      softcap: logits are `softcap * tanh(logits / softcap)`; `None`: as they are.
      z_loss: factor of the squared logarithm of the softmax's denominator, which it keeps small.

    Source: Gemma 2, arXiv 2408.00118, section 2; z-loss: PaLM, arXiv 2204.02311, section 5.
    """

    softcap: float | None = None
    z_loss: float = 0.0

    def cap(self, logits: Array) -> tuple[Array, Array | None]:
        """Capped logits, and their derivative; `None`: it is 1."""
        if self.softcap is None:
            return logits, None
        turned = jnp.tanh(logits / self.softcap)
        return self.softcap * turned, 1 - jnp.square(turned)


PLAIN = LossRule()


def num_targets(targets: Int[Array | np.ndarray, "..."]) -> Int[Array, ""]:
    """How many targets count, int32.

    Example:
      >>> import jax.numpy as jnp
      >>> int(num_targets(jnp.array([3, -1, 0])))
      2
    """
    return jnp.sum(targets >= 0, dtype=jnp.int32)


def cross_entropy_and_grads(
    final: Final,
    last: Tree,
    table: Float[Array, "V d"],
    y: Float[Array, "B T d"],
    targets: Int[Array, "B T"],
    grads: tuple[Tree, Float[Array, "V d"] | None],
    *,
    block_tokens: int,
    shard: VocabShard | None = None,
    rule: LossRule = PLAIN,
) -> tuple[Float[Array, ""], Float[Array, "B T d"], tuple[Tree, Float[Array, "V d"] | None]]:
    """Sum of token losses, its gradient in y, and its gradients in the weights added to `grads`.

    Args:
      final: token-wise function `(last, y) -> h`, for example the final norm.
      last: weights of `final`, compute dtype.
      table: head, one row per vocabulary entry, compute dtype.
      y: output of the last layer, compute dtype.
      targets: next tokens; below zero is ignored.
      grads: accumulators like `(last, table)` in the accumulation dtype; `None`: none is wanted.
      block_tokens: tokens of `B*T` whose logits exist at one time.
      shard: of the vocabulary on this device; `None`: all of it.
      rule: what else the loss is made of.

    Returns:
      The loss in the accumulation dtype, dy in y's dtype, and `grads` with this call's share added.

    Raises:
      ValueError: `block_tokens` below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> table, y, targets = jnp.eye(3, 2), jnp.ones((1, 4, 2)), jnp.array([[0, 1, 2, -1]])
      >>> loss, dy, _ = cross_entropy_and_grads(
      ...     lambda _, y: y, {}, table, y, targets, ({}, jnp.zeros((3, 2))), block_tokens=2
      ... )
      >>> round(float(loss), 4), dy.shape
      (3.586, (1, 4, 2))
    """
    dtype = accumulation_dtype(y.dtype)
    rows, wanted = y.reshape(-1, y.shape[-1]), targets.reshape(-1)

    def block(carry, start, size):
        loss, dy, grads = carry
        block_loss, block_dy, *block_grads = _block_gradients(
            final, last, table, *(_take(x, start, size) for x in (rows, wanted)), grads, shard, rule
        )
        dy = lax.dynamic_update_slice_in_dim(dy, block_dy, start, axis=0)
        grads = jax.tree.map(lambda a, g: a + g.astype(a.dtype), grads, tuple(block_grads))
        return loss + block_loss, dy, grads

    carry = (jnp.zeros((), dtype), jnp.zeros_like(rows), grads)
    loss, dy, grads = _over_blocks(block, carry, rows.shape[0], block_tokens)
    return loss, dy.reshape(y.shape), grads


def token_losses(
    final: Final,
    last: Tree,
    table: Float[Array, "V d"],
    y: Float[Array, "B T d"],
    targets: Int[Array, "B T"],
    *,
    block_tokens: int,
    shard: VocabShard | None = None,
    rule: LossRule = PLAIN,
) -> Float[Array, "B T"]:
    """Loss of every token without gradients, for evaluation; the blocks of the function above.

    Args:
      final: as for `cross_entropy_and_grads`, and so all others.
      last: see there.
      table: see there.
      y: see there.
      targets: see there.
      block_tokens: see there.
      shard: see there.
      rule: see there.

    Returns:
      Losses in the accumulation dtype, 0 where the target is ignored.

    Raises:
      ValueError: `block_tokens` below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> table, y, targets = jnp.eye(3, 2), jnp.ones((1, 4, 2)), jnp.array([[0, 1, 2, -1]])
      >>> losses = token_losses(lambda _, y: y, {}, table, y, targets, block_tokens=2)
      >>> [round(float(loss), 4) for loss in losses[0]]
      [0.862, 0.862, 1.862, 0.0]
    """
    rows, wanted = y.reshape(-1, y.shape[-1]), targets.reshape(-1)

    def block(losses, start, size):
        h = final(last, _take(rows, start, size)[None])[0]
        found = _softmax_loss(_logits(h, table), _take(wanted, start, size), shard, rule)[0]
        return lax.dynamic_update_slice_in_dim(losses, found, start, axis=0)

    zeros = jnp.zeros(wanted.shape, accumulation_dtype(y.dtype))
    return _over_blocks(block, zeros, rows.shape[0], block_tokens).reshape(targets.shape)


def cross_entropy_reference(
    final: Final,
    last: Tree,
    table: Float[Array, "V d"],
    y: Float[Array, "B T d"],
    targets: Int[Array | np.ndarray, "B T"],
    rule: LossRule = PLAIN,
) -> Float[Array, ""]:
    """The slow obvious twin: whole logits, differentiable by `jax.grad`.

    Args:
      final: as for `cross_entropy_and_grads`, and so all others.
      last: see there.
      table: see there.
      y: see there.
      targets: see there.
      rule: see there.

    Returns:
      Sum of token losses in the accumulation dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> table, y, targets = jnp.eye(3, 2), jnp.ones((1, 4, 2)), jnp.array([[0, 1, 2, -1]])
      >>> round(float(cross_entropy_reference(lambda _, y: y, {}, table, y, targets)), 4)
      3.586
    """
    logits, _ = rule.cap(_logits(final(last, y), table))
    chosen = jnp.take_along_axis(logits, jnp.maximum(targets, 0)[..., None], axis=-1)
    lse = jax.nn.logsumexp(logits, axis=-1)
    losses = lse - chosen[..., 0] + rule.z_loss * jnp.square(lse)
    return jnp.sum(jnp.where(targets >= 0, losses, 0))


def _over_blocks(block: Callable, carry: Tree, num_tokens: int, block_tokens: int) -> Tree:
    """`carry = block(carry, start, size)` over all blocks, the tail last."""
    size, count, tail = cut(num_tokens, block_tokens)
    if count == 1:
        carry = block(carry, 0, size)
    else:
        carry = lax.fori_loop(0, count, lambda i, carry: block(carry, i * size, size), carry)
    return block(carry, count * size, tail) if tail else carry


def _block_gradients(final: Final, last: Tree, table, y, targets, grads, shard, rule: LossRule):
    """Loss of n tokens and its gradients: (loss, dy, dlast, dtable), the last two as `grads`."""
    dtype = accumulation_dtype(y.dtype)
    h, pull = jax.vjp(lambda last, y: final(last, y[None])[0], last, y)
    loss, dlogits = _softmax_loss(_logits(h, table), targets, shard, rule)
    dlogits = dlogits.astype(table.dtype)
    dh = jnp.einsum("nv,vd->nd", dlogits, table, preferred_element_type=dtype)
    dtable = None
    if grads[1] is not None:
        dtable = jnp.einsum("nv,nd->vd", dlogits, h, preferred_element_type=dtype)
    dh = dh.astype(h.dtype)
    dlast, dy = pull(dh if shard is None else shard.total(dh))
    dlast = jax.tree.map(lambda leaf, total: None if total is None else leaf, dlast, grads[0])
    return loss.sum(), dy, dlast, dtable


def _logits(h: Float[Array, "... d"], table: Float[Array, "V d"]) -> Float[Array, "... V"]:
    dtype = accumulation_dtype(h.dtype)
    return jnp.einsum("...d,vd->...v", h, table, preferred_element_type=dtype)


def _softmax_loss(
    logits: Float[Array, "n V"], targets: Int[Array, "n"], shard: VocabShard | None, rule: LossRule
) -> tuple[Float[Array, "n"], Float[Array, "n V"]]:
    """Token losses and their gradients in the logits; one exponential per logit for both."""
    counts = (targets >= 0)[:, None]
    logits, derivative = rule.cap(logits)
    if shard is None:
        highest = logits.max(-1, keepdims=True)
        weights = jnp.exp(logits - highest)
        total = weights.sum(-1, keepdims=True)
        chosen = jnp.take_along_axis(logits, jnp.maximum(targets, 0)[:, None], axis=-1)
        hit = jnp.arange(logits.shape[1]) == targets[:, None]
    else:
        weights, total, highest, chosen, hit = _parts(logits, targets, shard)
    lse = highest + jnp.log(total)
    loss, weights = lse - chosen, weights / total
    if rule.z_loss:
        loss = loss + rule.z_loss * jnp.square(lse)
        weights = weights * (1 + 2 * rule.z_loss * lse)
    gradients = weights - hit if derivative is None else (weights - hit) * derivative
    return jnp.where(counts, loss, 0)[:, 0], jnp.where(counts, gradients, 0)


def _parts(logits: Float[Array, "n V"], targets: Int[Array, "n"], shard: VocabShard):
    """Where each device has some of the logits: the sums over all, and its own part of the rest."""
    ids = shard.ids(logits.shape[1])
    logits = jnp.where(ids < shard.vocab_size, logits, -jnp.inf)
    highest = shard.largest(logits.max(-1, keepdims=True))
    weights = jnp.exp(logits - highest)
    hit = ids == targets[:, None]
    chosen = jnp.where(hit, logits, 0).sum(-1, keepdims=True)
    total, chosen = shard.total((weights.sum(-1, keepdims=True), chosen))
    return weights, total, highest, chosen, hit


def _take(x: Array, start, size: int) -> Array:
    return lax.dynamic_slice_in_dim(x, start, size, axis=0)
