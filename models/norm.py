"""LayerNorm and RMSNorm whose backward saves the input and at most two numbers per token.

Flax's modules hold the parameters; only the call is ours. Differentiating Flax's call in bfloat16
saves three float32 arrays of the input's shape, six times the input's bytes. Here statistics are
float32 (float64 for float64 input), and the backward is the closed form: with
`n = (x - mean) / std` and `g = dy * scale`,

    dx = (g - mean(g) - n * mean(g * n)) / std,    dscale = sum(dy * n),    dbias = sum(dy)

and without the `mean(g)` term for RMSNorm.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

Weight = Float[Array | np.ndarray, "d"]


class LayerNorm(nnx.LayerNorm):
    """`nnx.LayerNorm` with a lean backward; input and output `[B, T, d]` in the input's dtype."""

    def __call__(self, x: Float[Array, "B T d"]) -> Float[Array, "B T d"]:
        assert self.scale is not None and self.bias is not None
        return layer_norm(x, self.scale[...], self.bias[...], self.epsilon)


class RMSNorm(nnx.RMSNorm):
    """`nnx.RMSNorm` with a lean backward; input and output `[..., d]` in the input's dtype.

    Args:
      width: d.
      epsilon: added to the variance.
      rngs: not used, as the scale begins at 1.
      offset: whether the scale is 1 + the weight, which begins at 0 (Gemma).
      parts: devices that compute the same norm of the same tokens: each gives its share of the
        weight's gradient.
    """

    def __init__(
        self, width: int, *, epsilon: float, rngs: nnx.Rngs, offset: bool = False, parts: int = 1
    ):
        begin = nnx.initializers.zeros if offset else nnx.initializers.ones
        super().__init__(width, epsilon=epsilon, scale_init=begin, rngs=rngs)
        self.offset, self.parts = offset, parts

    def __call__(self, x: Float[Array, "*B d"]) -> Float[Array, "*B d"]:
        assert self.scale is not None
        scale = self.scale[...]
        if self.parts > 1:
            scale = shared(scale, self.parts)
        if self.offset:
            scale = 1 + _widen(scale)
        return rms_norm(x, scale, self.epsilon)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(
    x: Float[Array, "B T d"], scale: Weight, bias: Weight, epsilon: float
) -> Float[Array, "B T d"]:
    """Normalise each token to mean 0 and variance 1, then scale and shift.

    Source: Ba et al., Layer Normalization, arXiv 1607.06450, equation 4.
    """
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x, scale, bias, epsilon):
    wide = _widen(x)
    mean = wide.mean(-1)
    inverse_std = jax.lax.rsqrt(wide.var(-1) + epsilon)
    normal = (wide - mean[..., None]) * inverse_std[..., None]
    return (normal * scale + bias).astype(x.dtype), (x, scale, mean, inverse_std)


def _layer_norm_backward(epsilon, residuals, dy):
    x, scale, mean, inverse_std = residuals
    dy = _widen(dy)
    normal = (_widen(x) - mean[..., None]) * inverse_std[..., None]
    g = dy * scale
    dx = g - g.mean(-1, keepdims=True) - normal * (g * normal).mean(-1, keepdims=True)
    dx = dx * inverse_std[..., None]
    return dx.astype(x.dtype), _sum_tokens(dy * normal, scale), _sum_tokens(dy, scale)


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def rms_norm(x: Float[Array, "*B d"], scale: Weight, epsilon: float) -> Float[Array, "*B d"]:
    """Divide each token by its root mean square, then scale.

    Source: Zhang and Sennrich, Root Mean Square Layer Normalization, arXiv 1910.07467, equation 4.
    """
    return _rms_norm_forward(x, scale, epsilon)[0]


def _rms_norm_forward(x, scale, epsilon):
    wide = _widen(x)
    inverse_rms = jax.lax.rsqrt(jnp.square(wide).mean(-1) + epsilon)
    return (wide * inverse_rms[..., None] * scale).astype(x.dtype), (x, scale, inverse_rms)


def _rms_norm_backward(epsilon, residuals, dy):
    x, scale, inverse_rms = residuals
    dy = _widen(dy)
    normal = _widen(x) * inverse_rms[..., None]
    g = dy * scale
    dx = (g - normal * (g * normal).mean(-1, keepdims=True)) * inverse_rms[..., None]
    return dx.astype(x.dtype), _sum_tokens(dy * normal, scale)


rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def shared(weight: Weight, parts: int):
    """The weight, of whose gradient each of `parts` devices gives an equal share."""
    return weight


shared.defvjp(lambda weight, parts: (weight, None), lambda parts, _, dy: (dy / parts,))


def _widen(x):
    return x.astype(jnp.promote_types(jnp.float32, x.dtype))


def _sum_tokens(values, parameter):
    return values.sum(tuple(range(values.ndim - 1))).astype(parameter.dtype)
