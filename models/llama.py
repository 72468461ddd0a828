"""Llama: RMSNorm before each block, SwiGLU, rotary positions, grouped-query heads, no biases.

Source: Touvron et al., LLaMA, arXiv 2302.13971, section 2.2; grouped queries: arXiv 2305.13245.
"""

from dataclasses import dataclass
from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Int

from models.blocks import Heads, SwiGlu, output_std
from models.decoder import Decoder
from models.norm import RMSNorm
from models.rotary import Tables, rotary_tables, rotate


@dataclass(frozen=True, kw_only=True)
class Llama(Decoder):
    """A Llama-shaped decoder; `rope_theta` is the base of its rotary frequencies."""

    family: ClassVar[str] = "llama"
    gated: ClassVar[bool] = True

    rope_theta: float

    def make_layer(self, rngs: nnx.Rngs) -> "LlamaLayer":
        return LlamaLayer(self, rngs)

    def make_first(self, rngs: nnx.Rngs) -> None:
        return None

    def make_last(self, rngs: nnx.Rngs) -> nnx.Module:
        return RMSNorm(self.model_dim, epsilon=self.norm_eps, rngs=rngs)

    def context(self, positions: Int[Array, "T"]) -> Tables:
        return rotary_tables(positions, head_dim=self.head_dim, theta=self.rope_theta)


class LlamaLayer(nnx.Module):
    """One layer around attention: norm, heads, rotary before it; heads, residual, MLP after it."""

    def __init__(self, sizes: Llama, rngs: nnx.Rngs):
        std = output_std(sizes.num_layers)
        self.attention_norm = RMSNorm(sizes.model_dim, epsilon=sizes.norm_eps, rngs=rngs)
        self.attention = Heads(
            sizes.model_dim, sizes.num_heads, num_kv_heads=sizes.num_kv_heads,
            head_dim=sizes.head_dim, use_bias=False, output_std=std, rngs=rngs,
        )
        self.mlp_norm = RMSNorm(sizes.model_dim, epsilon=sizes.norm_eps, rngs=rngs)
        self.mlp = SwiGlu(sizes.model_dim, sizes.mlp_dim, output_std=std, rngs=rngs)

    def pre(self, x, context):
        cos, sin = context
        q, k, v = self.attention.split(self.attention_norm(x))
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def post(self, x, attended):
        x = x + self.attention.join(attended)
        return x + self.mlp(self.mlp_norm(x))
