"""Experts: every token through the few MLPs that a router chose for it, none dropped.

A pair is a token and one of its k experts. Pairs are sorted by expert and worked on in blocks, each
with the weights of one expert, as many blocks as the experts' tokens fill: one loop whose number of
trips is known when it runs. A block picks its tokens, and adds what it computes to them; so nothing
of k times the tokens is ever as wide as the model. What waits for the backward is as of a plain
gated MLP, k times: the inputs of the activation, and besides which experts, with which weight.

`lax.ragged_dot` would be the library's word for it. XLA lowers it on CPUs and NVIDIA GPUs to one
matmul with every expert for every pair, and a copy of the pairs for each (docs/design/experts.md).

The weight of a pair is multiplied in before the last matmul, which is linear: so its gradient needs
no result of that matmul.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.blocks import expert_block
from seq1f1b_jax.ops.precision import accumulation_dtype
from seq1f1b_jax.ops.router import EXPERTS

TOKEN_WISE = {
    "expert_mlp_forward": ((0, 1, 2), (0,)),
    "expert_mlp_backward": ((0, 1, 2, 8), (0, 1)),
}
"""Functions that sort tokens, but keep them apart: which arguments and results are `[B, T, ...]`,
of the flattened ones. `pipeline.checks` takes this from here, tests show it."""

Activation = Callable[[Array, Array], Array]


class Kernels(NamedTuple):
    """Weights of all experts."""

    gate: Float[Array, "E d f"]
    up: Float[Array, "E d f"]
    down: Float[Array, "E f d"]


def expert_mlp(
    h: Float[Array, "B T d"],
    weights: Float[Array, "B T k"],
    experts: Int[Array, "B T k"],
    kernels: Kernels,
    *,
    activation: Activation,
) -> Float[Array, "B T d"]:
    """The weighted sum of every token's experts: `down(activation(gate(h), up(h)))` of each.

    Args:
      h: tokens.
      weights: of a token's experts, from `router.route`.
      experts: their numbers.
      kernels: of the experts.
      activation: elementwise function of gate and up.

    Returns:
      Sums in h's dtype; the blocks of a token's experts are added in the accumulation dtype.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> h, weights = jnp.ones((1, 2, 3)), jnp.full((1, 2, 1), 0.5)
      >>> experts = jnp.array([[[1], [0]]])
      >>> kernels = Kernels(jnp.ones((2, 3, 4)), jnp.ones((2, 3, 4)), jnp.eye(2)[:, :1, None]
      ...                   * jnp.ones((2, 4, 3)))
      >>> y = expert_mlp(h, weights, experts, kernels, activation=lambda gate, up: gate * up)
      >>> y[0, :, 0].tolist()
      [0.0, 18.0]
    """
    return _expert_mlp(activation, h, weights, experts, kernels)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _expert_mlp(activation: Activation, h, weights, experts, kernels: Kernels) -> Array:
    return expert_mlp_forward(activation, h, weights, experts, kernels)[0]


class _Inner(NamedTuple):
    """Of every pair, sorted by expert: inputs of the activation."""

    gate: Float[Array, "R f"]
    up: Float[Array, "R f"]


class _Blocks:
    """How pairs are sorted and cut into blocks.

    Args:
      experts: of every token.
      num_experts: E.
    """

    def __init__(self, experts: Int[Array, "B T k"], num_experts: int):
        pairs, num_chosen = experts.reshape(-1), experts.shape[-1]
        self.num_pairs = pairs.shape[0]
        self.size = expert_block(self.num_pairs, num_experts)
        self.order = jnp.argsort(pairs, stable=True).astype(jnp.int32)
        self.tokens = self.order // num_chosen
        counts = jnp.sum(pairs[:, None] == jnp.arange(num_experts), axis=0, dtype=jnp.int32)
        self.ends = jnp.cumsum(counts, dtype=jnp.int32)
        self.firsts = self.ends - counts
        self.blocks = jnp.cumsum(-(-counts // self.size), dtype=jnp.int32)

    def each(self, body: Callable, carry: Any) -> Any:
        """`carry = body(block, carry)` over all blocks."""

        def step(index, carry):
            expert = jnp.sum(self.blocks <= index, dtype=jnp.int32)
            before = jnp.where(expert > 0, self.blocks[expert - 1], 0)
            first = self.firsts[expert] + (index - before) * self.size
            start = jnp.minimum(first, self.num_pairs - self.size)
            rows = start + jnp.arange(self.size, dtype=jnp.int32)
            inside = (rows >= first) & (rows < self.ends[expert])
            tokens = lax.dynamic_slice_in_dim(self.tokens, start, self.size)
            return body(_Block(expert, start, inside, tokens), carry)

        return lax.fori_loop(0, self.blocks[-1], step, carry)


class _Block(NamedTuple):
    """Some pairs of one expert, among them some of its neighbours'.

    Attributes:
      expert: whose they are.
      start: the first one's place among the sorted pairs.
      inside: which are the expert's, and not done by the block before.
      tokens: of the pairs.
    """

    expert: Int[Array, ""]
    start: Int[Array, ""]
    inside: Array
    tokens: Int[Array, "b"]

    def rows(self, values: Float[Array, "R *n"]) -> Float[Array, "b *n"]:
        """Those of the block's pairs."""
        return lax.dynamic_slice_in_dim(values, self.start, self.inside.shape[0])

    def put(self, values: Float[Array, "R *n"], rows: Float[Array, "b *n"]) -> Array:
        """The values with those of the block's own pairs."""
        rows = self.own(rows.astype(values.dtype), otherwise=self.rows(values))
        return lax.dynamic_update_slice_in_dim(values, rows, self.start, axis=0)

    def own(self, rows: Array, *, otherwise: Array | float = 0) -> Array:
        """Rows of its own pairs, others in the places of its neighbours'."""
        inside = self.inside.reshape(-1, *(1,) * (rows.ndim - 1))
        return jnp.where(inside, rows, jnp.asarray(otherwise, rows.dtype))

    def add(self, values: Float[Array, "n d"], rows: Float[Array, "b d"]) -> Array:
        """The tokens with what its own pairs give added to them."""
        return values.at[self.tokens].add(self.own(rows.astype(values.dtype)))

    def of(self, kernel: Float[Array, "E i o"]) -> Float[Array, "i o"]:
        """The expert's weights."""
        return lax.dynamic_index_in_dim(kernel, self.expert, 0, keepdims=False)


@partial(jax.jit, static_argnums=0)
def expert_mlp_forward(activation: Activation, h, weights, experts, kernels: Kernels):
    """Sums, and what their backward keeps."""
    dtype, pairs = accumulation_dtype(h.dtype), _Blocks(experts, kernels.gate.shape[0])
    weights, x = weights.reshape(-1)[pairs.order], _rows(h)

    def block(block: _Block, carry):
        y, inner = carry
        own = x[block.tokens]
        gate, up = (_matmul(own, block.of(kernel)) for kernel in kernels[:2])
        hidden = _weighted(activation, gate, up, block.rows(weights))
        y = block.add(y, _matmul(hidden, block.of(kernels.down), dtype))
        return y, _Inner(block.put(inner.gate, gate), block.put(inner.up, up))

    empty = jnp.zeros((pairs.num_pairs, kernels.gate.shape[2]), h.dtype)
    y, inner = pairs.each(block, (jnp.zeros(x.shape, dtype), _Inner(empty, empty)))
    return y.astype(h.dtype).reshape(h.shape), inner


def _expert_mlp_forward(activation, h, weights, experts, kernels):
    y, inner = expert_mlp_forward(activation, h, weights, experts, kernels)
    inner = _Inner(*(checkpoint_name(value, EXPERTS) for value in inner))
    return y, (h, weights, experts, kernels, inner)


def _expert_mlp_backward(activation, residuals, dy):
    h, weights, *others = residuals
    dh, d_weights, d_kernels = expert_mlp_backward(activation, h, weights, *others, dy)
    return dh, d_weights, None, d_kernels


@partial(jax.jit, static_argnums=0)
def expert_mlp_backward(
    activation: Activation, h, weights, experts, kernels: Kernels, inner: _Inner, dy
):
    """Two loops, since only the first is waited for: gradients of inputs, then of kernels."""
    dtype, pairs = accumulation_dtype(h.dtype), _Blocks(experts, kernels.gate.shape[0])
    sorted_weights, x, dy = weights.reshape(-1)[pairs.order], _rows(h), _rows(dy)

    def inputs(block: _Block, carry):
        dh, d_inner, d_weights = carry
        d_hidden = _matmul(dy[block.tokens], block.of(kernels.down).T)
        values = (block.rows(inner.gate), block.rows(inner.up), block.rows(sorted_weights))
        _, vjp = jax.vjp(partial(_weighted, activation), *values)
        d_gate, d_up, d_weight = vjp(d_hidden)
        dx = _matmul(d_gate, block.of(kernels.gate).T, dtype)
        dx = dx + _matmul(d_up, block.of(kernels.up).T, dtype)
        d_inner = _Inner(block.put(d_inner.gate, d_gate), block.put(d_inner.up, d_up))
        return block.add(dh, dx), d_inner, block.put(d_weights, d_weight)

    empty = jnp.zeros_like(inner.gate)
    dh, d_inner, d_weights = pairs.each(
        inputs, (jnp.zeros(x.shape, dtype), _Inner(empty, empty), jnp.zeros_like(sorted_weights))
    )

    def of_kernels(block: _Block, grads: Kernels):
        own, e = x[block.tokens].T, block.expert
        d_gate, d_up = (block.own(block.rows(values)) for values in d_inner)
        values = (block.rows(inner.gate), block.rows(inner.up), block.rows(sorted_weights))
        hidden = block.own(_weighted(activation, *values))
        return Kernels(
            grads.gate.at[e].add(_matmul(own, d_gate, dtype)),
            grads.up.at[e].add(_matmul(own, d_up, dtype)),
            grads.down.at[e].add(_matmul(hidden.T, dy[block.tokens], dtype)),
        )

    d_kernels = pairs.each(of_kernels, Kernels(*(jnp.zeros(k.shape, dtype) for k in kernels)))
    d_kernels = Kernels(*(d.astype(k.dtype) for d, k in zip(d_kernels, kernels, strict=True)))
    d_weights = jnp.zeros_like(d_weights).at[pairs.order].set(d_weights)
    return dh.astype(h.dtype).reshape(h.shape), d_weights.reshape(weights.shape), d_kernels


_expert_mlp.defvjp(_expert_mlp_forward, _expert_mlp_backward)


def _rows(x: Float[Array, "B T d"]) -> Float[Array, "n d"]:
    return x.reshape(-1, x.shape[-1])


def _weighted(activation: Activation, gate: Array, up: Array, weights: Array) -> Array:
    """What goes into the last matmul, computed in the weights' dtype."""
    wide = activation(gate.astype(weights.dtype), up.astype(weights.dtype))
    return (wide * weights[:, None]).astype(gate.dtype)


def _matmul(x: Array, kernel: Array, dtype: Any = None) -> Array:
    """A product that is summed in the accumulation dtype, and given in `dtype` or in x's."""
    wide = jnp.matmul(x, kernel, preferred_element_type=accumulation_dtype(x.dtype))
    return wide.astype(x.dtype if dtype is None else dtype)
