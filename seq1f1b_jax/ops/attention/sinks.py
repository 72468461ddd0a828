"""Attention sinks: a score without a key for each query head, which takes its share of the softmax.

With the log-sum-exp of the keys' scores, `lse`, and a sink `s`, the whole one is
`lse' = log(exp(lse) + exp(s))`, and what attention gives is `out * exp(lse - lse')`. A backward
that is given these is exact, as for any part of the keys (`contract`); the sink's own gradient is

    ds = -exp(s - lse') * rowsum(out' * dout)    summed over tokens

Source: Xiao et al., Efficient Streaming Language Models with Attention Sinks, arXiv 2309.17453.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def with_sinks(
    out: Float[Array, "B T Hq Dv"], lse: Float[Array, "B Hq T"], sinks: Float[Array, "Hq"] | None
) -> tuple[Float[Array, "B T Hq Dv"], Float[Array, "B Hq T"]]:
    """What attention gives when sinks share its softmax; as it is, where there are none."""
    if sinks is None:
        return out, lse
    whole = jnp.logaddexp(lse, sinks.astype(lse.dtype)[:, None])
    share = jnp.exp(lse - whole).swapaxes(1, 2)[..., None]
    return (out * share).astype(out.dtype), whole


def sink_gradients(
    out: Float[Array, "B T Hq Dv"],
    lse: Float[Array, "B Hq T"],
    dout: Float[Array, "B T Hq Dv"],
    sinks: Float[Array, "Hq"],
) -> Float[Array, "Hq"]:
    """Gradient of the sinks, in the accumulation dtype.

    Args:
      out: from `with_sinks`.
      lse: from `with_sinks`.
      dout: gradient of `out`.
      sinks: as given there.
    """
    delta = jnp.einsum("bthd,bthd->bht", out, dout, preferred_element_type=lse.dtype)
    return -(jnp.exp(sinks.astype(lse.dtype)[:, None] - lse) * delta).sum((0, 2))
