"""The parts both families are made of: head projections and the two kinds of MLP.

What a vjp of these keeps is part of their design. Matrix products keep their input and their
kernel untouched; activations keep their input and are computed again; the output projection
contracts heads and head dimensions at once, so that it keeps attention's result as it came and not
a reshaped copy.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

INIT_STD = 0.02
"""Standard deviation of every initial weight (GPT-2)."""


def output_std(num_layers: int) -> float:
    """Standard deviation of what writes into the residual stream, twice per layer (GPT-2)."""
    return INIT_STD / math.sqrt(2 * num_layers)


class Heads(nnx.Module):
    """Query, key, value and output projections of grouped-query attention, without the attention.

    Args:
      model_dim, num_heads, num_kv_heads, head_dim: sizes; `num_heads` a multiple of `num_kv_heads`.
      qkv_bias: whether query, key and value projections have biases.
      output_bias: whether the output projection has one.
      output_std: initial standard deviation of the output projection.
      rngs: random streams of the initial weights.
    """

    def __init__(
        self, model_dim: int, num_heads: int, *, num_kv_heads: int, head_dim: int, qkv_bias: bool,
        output_bias: bool, output_std: float, rngs: nnx.Rngs,
    ):
        kv_dim = num_kv_heads * head_dim
        self.head_dim = head_dim
        self.query = _linear(model_dim, num_heads * head_dim, use_bias=qkv_bias, rngs=rngs)
        self.key = _linear(model_dim, kv_dim, use_bias=qkv_bias, rngs=rngs)
        self.value = _linear(model_dim, kv_dim, use_bias=qkv_bias, rngs=rngs)
        self.output = nnx.LinearGeneral(
            (num_heads, head_dim), model_dim, axis=(-2, -1),
            **_options(use_bias=output_bias, std=output_std, rngs=rngs),
        )

    def split(
        self, h: Float[Array, "B T d"]
    ) -> tuple[Float[Array, "B T Hq D"], Float[Array, "B T Hkv D"], Float[Array, "B T Hkv D"]]:
        """Queries, keys and values of normalised input."""
        return tuple(
            rearrange(project(h).astype(h.dtype), "B T (H D) -> B T H D", D=self.head_dim)
            for project in (self.query, self.key, self.value)
        )

    def join(self, attended: Float[Array, "B T Hq D"]) -> Float[Array, "B T d"]:
        """Heads back into the residual stream."""
        return self.output(attended).astype(attended.dtype)


class GeluMlp(nnx.Module):
    """`down(gelu(up(h)))` with biases; GELU in its tanh form, as GPT-2."""

    def __init__(self, model_dim: int, mlp_dim: int, *, output_std: float, rngs: nnx.Rngs):
        self.up = _linear(model_dim, mlp_dim, use_bias=True, rngs=rngs)
        self.down = _linear(mlp_dim, model_dim, use_bias=True, std=output_std, rngs=rngs)

    def __call__(self, h: Float[Array, "B T d"]) -> Float[Array, "B T d"]:
        return self.down(gelu(self.up(h).astype(h.dtype))).astype(h.dtype)


class SwiGlu(nnx.Module):
    """`down(silu(gate(h)) * up(h))` without biases.

    Source: Shazeer, GLU Variants Improve Transformer, arXiv 2002.05202, equation 6.
    """

    def __init__(self, model_dim: int, mlp_dim: int, *, output_std: float, rngs: nnx.Rngs):
        self.gate = _linear(model_dim, mlp_dim, use_bias=False, rngs=rngs)
        self.up = _linear(model_dim, mlp_dim, use_bias=False, rngs=rngs)
        self.down = _linear(mlp_dim, model_dim, use_bias=False, std=output_std, rngs=rngs)

    def __call__(self, h: Float[Array, "B T d"]) -> Float[Array, "B T d"]:
        return self.down(gated(self.gate(h), self.up(h)))


def keep_inputs(function: Callable) -> Callable:
    """An elementwise function whose backward keeps its inputs and computes the rest again, wide.

    The function runs in float32 (float64 for float64 inputs) and returns the first input's dtype.
    """

    def wide(*inputs):
        dtype = jnp.promote_types(jnp.float32, inputs[0].dtype)
        return function(*(x.astype(dtype) for x in inputs)).astype(inputs[0].dtype)

    kept = jax.custom_vjp(wide)
    kept.defvjp(
        lambda *inputs: (wide(*inputs), inputs),
        lambda inputs, dy: jax.vjp(wide, *inputs)[1](dy),
    )
    return kept


gelu = keep_inputs(lambda h: jax.nn.gelu(h, approximate=True))
gated = keep_inputs(lambda gate, up: jax.nn.silu(gate) * up)


def _linear(in_dim, out_dim, *, use_bias, rngs, std=INIT_STD):
    return nnx.Linear(in_dim, out_dim, **_options(use_bias=use_bias, std=std, rngs=rngs))


def _options(*, use_bias, std, rngs):
    return {
        "use_bias": use_bias,
        "kernel_init": nnx.initializers.normal(std),
        "param_dtype": jnp.float32,
        "promote_dtype": _widen_bias,
        "rngs": rngs,
    }


def _widen_bias(operands, *, dtype):
    """Inputs and kernel as they are; the bias wide, so that its gradient is summed in float32.

    A bfloat16 sum over 32k tokens loses most of its digits. The caller casts the wide result back.
    """
    inputs, kernel, bias = operands
    if bias is not None:
        bias = bias.astype(jnp.promote_types(jnp.float32, bias.dtype))
    return inputs, kernel, bias
