"""Low-rank adapters: beside a matrix W, which is frozen, the product of two thin ones that train.

    y = x W + scale * (x A) B        A [in, r], B [r, out], scale = alpha / r

B begins at zero, so that a model begins as it was; A begins as PEFT's does, in which its transpose
is drawn by Kaiming's rule for a leaky ReLU of slope sqrt(5): evenly within 1/sqrt(in) of zero.

Over the mesh axis `tensor` a matrix that is sharded by columns has A on every device and its
columns of B; one that is sharded by rows has its rows of A and B on every device, and what the
adapter adds is part of the sum over devices. Either way each device gives its part of the gradient
of what all of them have (`ops.tensor`).

Source: Hu et al., LoRA, arXiv 2106.09685, section 4.1.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from seq1f1b_jax.config import LoraConfig, Projection
from seq1f1b_jax.config.lora import ADAPTER_LEAVES
from seq1f1b_jax.ops.tensor import SUMMED

NO_ADAPTERS = LoraConfig()
FIRST, SECOND = ADAPTER_LEAVES


class Adapter(NamedTuple):
    """Sizes of an adapter: `r`, and the factor of what it adds."""

    rank: int
    scale: float


def adapter_of(lora: LoraConfig, projection: Projection) -> Adapter | None:
    """The adapter of a projection, if it has one."""
    if not lora.rank or projection not in lora.projections:
        return None
    return Adapter(lora.rank, lora.scale)


class AdaptedLinear(nnx.Linear):
    """`nnx.Linear` with an adapter; arguments are those of Flax's."""

    def __init__(
        self, in_dim: int, out_dim: int, *, adapter: Adapter, rngs: nnx.Rngs, **options
    ):
        super().__init__(in_dim, out_dim, rngs=rngs, **options)
        self.lora_a, self.lora_b = _factors((in_dim,), out_dim, adapter, rngs)
        self.scale = adapter.scale

    def __call__(self, x: Float[Array, "B T n"]) -> Float[Array, "B T m"]:
        return _with_adapter(super().__call__(x), x, self)


class AdaptedOutput(nnx.LinearGeneral):
    """`nnx.LinearGeneral` of heads and their widths, with an adapter whose A is `[H, D, r]`."""

    def __init__(
        self, in_dims: tuple[int, int], out_dim: int, *, adapter: Adapter, rngs: nnx.Rngs, **options
    ):
        super().__init__(in_dims, out_dim, rngs=rngs, **options)
        self.lora_a, self.lora_b = _factors(in_dims, out_dim, adapter, rngs)
        self.scale = adapter.scale

    def __call__(self, x: Float[Array, "B T H D"]) -> Float[Array, "B T m"]:
        return _with_adapter(super().__call__(x), x, self)


def adapted(kind: type[nnx.Module], adapter: Adapter | None) -> Callable[..., nnx.Module]:
    """A kind of projection, or the one of it that has an adapter."""
    if adapter is None:
        return kind
    with_adapter = {nnx.Linear: AdaptedLinear, nnx.LinearGeneral: AdaptedOutput}[kind]
    return lambda *dims, **options: with_adapter(*dims, adapter=adapter, **options)


def _factors(
    in_dims: tuple[int, ...], out_dim: int, adapter: Adapter, rngs: nnx.Rngs
) -> tuple[nnx.Param, nnx.Param]:
    """A and B of a fresh model, from a random stream that no other weight is drawn from."""
    bound = 1 / math.sqrt(math.prod(in_dims))
    first = jax.random.uniform(
        rngs.lora(), (*in_dims, adapter.rank), jnp.float32, minval=-bound, maxval=bound
    )
    return nnx.Param(first), nnx.Param(jnp.zeros((adapter.rank, out_dim), jnp.float32))


def _with_adapter(y: Array, x: Array, module: "AdaptedLinear | AdaptedOutput") -> Array:
    """`y + scale * (x A) B` in the dtype of x.

    The sum has a name, by which a backward that keeps matmuls keeps it, and not its two parts.
    """
    first, second = module.lora_a[...], module.lora_b[...]
    count = first.ndim - 1
    dims = (tuple(range(x.ndim - count, x.ndim)), tuple(range(count)))
    inner = jnp.tensordot(x, first, dims)
    added = (inner * jnp.asarray(module.scale, inner.dtype)) @ second
    return checkpoint_name((y + added).astype(x.dtype), SUMMED)
