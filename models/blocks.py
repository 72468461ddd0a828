"""The building blocks of both families: attention projections and the two kinds of MLP.

Their vjps are designed to save little. A matmul saves its input and its kernel as they are, an
activation saves its input and is recomputed, and the output projection contracts heads and head
dims at once, so that it saves attention's output and not a reshaped copy.

Under tensor parallelism (`ops.tensor`) sizes are those of one device, and what writes into the
residual stream is summed over devices.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import lax
from jax.tree_util import keystr
from jaxtyping import Array, Float

from seq1f1b_jax.config import LoraConfig
from seq1f1b_jax.models.lora import FIRST, NO_ADAPTERS, adapted, adapter_of
from seq1f1b_jax.ops.axes import TENSOR
from seq1f1b_jax.ops.tensor import ONE_DEVICE, TensorAxis

INIT_STD = 0.02
"""Standard deviation of every initial weight (GPT-2)."""


def output_std(num_layers: int) -> float:
    """Standard deviation of what writes into the residual stream, twice per layer (GPT-2)."""
    return INIT_STD / math.sqrt(2 * num_layers)


class Heads(nnx.Module):
    """Query, key, value and output projections of grouped-query attention, without the attention.

    Args:
      model_dim: width of the model.
      num_heads: query heads, a multiple of `num_kv_heads`.
      num_kv_heads: key/value heads.
      head_dim: width of a head.
      qkv_bias: whether query, key and value projections have biases.
      output_bias: whether the output projection has one.
      output_std: initial standard deviation of the output projection.
      rngs: random streams of the initial weights.
      tensor: axis that heads are sharded over; sizes are one device's.
      whole_kv_heads: key/value heads of the whole model, if fewer than devices: every device holds
        all their projections and uses those of the one that its queries share.
      norm: makes the norm of queries or keys from its width; `None`: there is none.
      whole_norm: whether that norm is over all heads at once, not over each.
      value_dim: width of a head of values; `None`: `head_dim`.
      lora: adapters of the projections.
    """

    def __init__(
        self, model_dim: int, num_heads: int, *, num_kv_heads: int, head_dim: int, qkv_bias: bool,
        output_bias: bool, output_std: float, rngs: nnx.Rngs, tensor: TensorAxis = ONE_DEVICE,
        whole_kv_heads: int | None = None, norm: Callable[[int], nnx.Module] | None = None,
        whole_norm: bool = False, value_dim: int | None = None, lora: LoraConfig = NO_ADAPTERS,
    ):
        adapter = partial(adapter_of, lora)
        kv_heads, value_dim = whole_kv_heads or num_kv_heads, value_dim or head_dim
        kv_dim = kv_heads * head_dim
        self.value_dim = value_dim
        self.head_dim, self.tensor, self.whole_kv_heads = head_dim, tensor, whole_kv_heads
        linear = partial(projection, use_bias=qkv_bias, rngs=rngs)
        self.query = linear(model_dim, num_heads * head_dim, adapter=adapter("query"))
        self.key = linear(model_dim, kv_dim, adapter=adapter("key"))
        self.value = linear(model_dim, kv_heads * value_dim, adapter=adapter("value"))
        self.output = adapted(nnx.LinearGeneral, adapter("output"))(
            (num_heads, value_dim), model_dim, axis=(-2, -1),
            **_options(use_bias=output_bias, std=output_std, rngs=rngs, parts=tensor.size),
        )
        self.normed, self.whole_norm = norm is not None, whole_norm
        if norm is not None:
            self.query_norm = norm(num_heads * head_dim if whole_norm else head_dim)
            self.key_norm = norm(kv_dim if whole_norm else head_dim)

    def split(
        self, h: Float[Array, "B T d"]
    ) -> tuple[Float[Array, "B T Hq D"], Float[Array, "B T Hkv D"], Float[Array, "B T Hkv Dv"]]:
        """Queries, keys and values of normalised input."""
        query, key, value = (
            project(h).astype(h.dtype)
            for project in (
                self.query, self._shared(self.key, self.head_dim),
                self._shared(self.value, self.value_dim),
            )
        )
        if self.normed and self.whole_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        query, key, value = (
            rearrange(x, "B T (H D) -> B T H D", D=width)
            for x, width in (
                (query, self.head_dim), (key, self.head_dim), (value, self.value_dim)
            )
        )
        if self.normed and not self.whole_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        return query, key, value

    def join(self, attended: Float[Array, "B T Hq Dv"]) -> Float[Array, "B t d"]:
        """Heads back into the residual stream."""
        return self.tensor.leave(self.output(attended).astype(attended.dtype))

    def _shared(self, project: nnx.Linear, width: int) -> Callable[[Array], Array]:
        """A key/value projection; of a shared one, the columns of this device's head."""
        if self.whole_kv_heads is None:
            return project
        head = lax.axis_index(TENSOR) * self.whole_kv_heads // self.tensor.size
        graph, weights = nnx.split(project)

        def own_head(path: tuple, weight: Array) -> Array:
            if FIRST in keystr(path):  # it has no columns of heads
                return weight
            return lax.dynamic_slice_in_dim(weight, head * width, width, weight.ndim - 1)

        return nnx.merge(graph, jax.tree.map_with_path(own_head, weights))


class GeluMlp(nnx.Module):
    """`down(gelu(up(h)))` with biases; GELU in its tanh form, as GPT-2."""

    def __init__(
        self, model_dim: int, mlp_dim: int, *, output_std: float, rngs: nnx.Rngs,
        tensor: TensorAxis = ONE_DEVICE, lora: LoraConfig = NO_ADAPTERS,
    ):
        self.tensor, adapter = tensor, partial(adapter_of, lora)
        linear = partial(projection, use_bias=True, rngs=rngs)
        self.up = linear(model_dim, mlp_dim, adapter=adapter("up"))
        self.down = linear(
            mlp_dim, model_dim, std=output_std, parts=tensor.size, adapter=adapter("down")
        )

    def __call__(self, h: Float[Array, "B T d"]) -> Float[Array, "B t d"]:
        return self.tensor.leave(self.down(gelu(self.up(h).astype(h.dtype))).astype(h.dtype))


class GatedMlp(nnx.Module):
    """`down(activation(gate(h)) * up(h))`: a SwiGLU with SiLU, a GeGLU with GELU.

    Source: Shazeer, GLU Variants Improve Transformer, arXiv 2002.05202, equation 6.
    """

    def __init__(
        self, model_dim: int, mlp_dim: int, *, output_std: float, rngs: nnx.Rngs,
        activation: str = "silu", bias: bool = False, tensor: TensorAxis = ONE_DEVICE,
        lora: LoraConfig = NO_ADAPTERS,
    ):
        self.tensor, self.activation = tensor, activation
        linear, adapter = partial(projection, use_bias=bias, rngs=rngs), partial(adapter_of, lora)
        self.gate = linear(model_dim, mlp_dim, adapter=adapter("gate"))
        self.up = linear(model_dim, mlp_dim, adapter=adapter("up"))
        self.down = linear(
            mlp_dim, model_dim, std=output_std, parts=tensor.size, adapter=adapter("down")
        )

    def __call__(self, h: Float[Array, "B T d"]) -> Float[Array, "B t d"]:
        gate, up = (project(h).astype(h.dtype) for project in (self.gate, self.up))
        return self.tensor.leave(self.down(GATED[self.activation](gate, up)).astype(h.dtype))


def keep_inputs(function: Callable) -> Callable:
    """An elementwise function whose backward saves its inputs and recomputes the rest in float32.

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
GATED: Mapping[str, Callable] = MappingProxyType({
    "silu": keep_inputs(lambda gate, up: jax.nn.silu(gate) * up),
    "gelu": keep_inputs(lambda gate, up: jax.nn.gelu(gate, approximate=True) * up),
})
"""Gate and value of a gated MLP by the name of its activation."""


def projection(in_dim, out_dim, *, use_bias, rngs, std=INIT_STD, parts=1, adapter=None):
    """A matrix with an initial standard deviation, and perhaps a bias and an adapter."""
    return adapted(nnx.Linear, adapter)(
        in_dim, out_dim, **_options(use_bias=use_bias, std=std, rngs=rngs, parts=parts)
    )


def _options(*, use_bias, std, rngs, parts=1):
    return {
        "use_bias": use_bias,
        "kernel_init": nnx.initializers.normal(std),
        "param_dtype": jnp.float32,
        "promote_dtype": partial(_widen_bias, parts=parts),
        "rngs": rngs,
    }


def _widen_bias(operands, *, dtype, parts):
    """Inputs and kernel as they are, the bias in float32, so that its gradient is summed in that.

    A bfloat16 sum over 32k tokens loses most of its digits. The caller casts the result back.
    Where the result is summed over devices, each adds its share of the bias.
    """
    inputs, kernel, bias = operands
    if bias is not None:
        bias = bias.astype(jnp.promote_types(jnp.float32, bias.dtype))
        bias = bias / parts if parts > 1 else bias
    return inputs, kernel, bias
