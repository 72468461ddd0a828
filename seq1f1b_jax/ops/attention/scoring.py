"""How attention makes scores of queries and keys: all in which the layers of models differ.

scores = cap(scale * q k^T) - slope * distance    where the mask shows the key

cap(s) = softcap * tanh(s / softcap)              Gemma 2, arXiv 2408.00118, section 2
slope, of each query head                         ALiBi, Press et al., arXiv 2108.12409
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int

from seq1f1b_jax.ops.axes import TENSOR


@dataclass(frozen=True)
class Scoring:
    """What a layer does with its scores; the default is plain attention.

    Attributes:
      window: sliding-window size, in keys; `None`: no window.
      scale: factor of the products of queries and keys; `None`: `1/sqrt(D)`.
      softcap: largest absolute score, which none reaches; `None`: as they are.
      slopes: of every query head of the model: what a score loses per token of distance (ALiBi);
        empty: nothing.

    Raises:
      ValueError: a window below 1, a scale or a cap that is not positive.

    Example:
      >>> Scoring(window=4096, softcap=50.0).bends
      True
    """

    window: int | None = None
    scale: float | None = None
    softcap: float | None = None
    slopes: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is no scoring."""
        if self.window is not None and self.window < 1:
            raise ValueError(f"window={self.window} is below 1; a query sees itself at least")
        for name in ("scale", "softcap"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name}={value} of attention scores must be a number above 0")

    @property
    def bends(self) -> bool:
        """Whether scores are more than scaled products."""
        return self.bent_by is not None

    def scale_of(self, head_dim: int) -> float:
        """The factor of products."""
        return 1 / math.sqrt(head_dim) if self.scale is None else self.scale

    @property
    def bent_by(self) -> str | None:
        """What makes scores more than scaled products, in words; `None`: nothing."""
        if self.softcap is not None:
            return f"soft cap of scores (softcap={self.softcap:g})"
        return "ALiBi (slopes)" if self.slopes else None

    def cap(self, scores: Array) -> tuple[Array, Array | None]:
        """Capped scores, and their derivative by those given; `None`: it is 1."""
        if self.softcap is None:
            return scores, None
        turned = jnp.tanh(scores / self.softcap)
        return self.softcap * turned, 1 - jnp.square(turned)

    def bias(
        self, distance: Int[Array, "T K"], *, num_heads: int, num_kv_heads: int, dtype: DTypeLike
    ) -> Float[Array, "Hkv GT K"] | None:
        """What is added to scores whose rows are as in `heads.to_rows`; `None`: nothing.

        Args:
          distance: tokens from key to query.
          num_heads: query heads of this device.
          num_kv_heads: key/value heads of this device.
          dtype: of the scores.
        """
        if not self.slopes:
            return None
        slopes = jnp.asarray(self.slopes, dtype)
        if num_heads < len(self.slopes):
            slopes = lax.dynamic_slice_in_dim(slopes, lax.axis_index(TENSOR) * num_heads, num_heads)
        bias = -slopes.reshape(num_kv_heads, -1, 1, 1) * distance.astype(dtype)
        return bias.reshape(num_kv_heads, -1, distance.shape[1])


PLAIN = Scoring()
