"""Llama and its relatives: RMSNorm before each block, SwiGLU, rotary positions, grouped queries.

Mistral is a Llama with a `window`, Qwen2 one with biases on queries, keys and values.
Source: Touvron et al., LLaMA, arXiv 2302.13971, section 2.2; grouped queries: arXiv 2305.13245;
Jiang et al., Mistral 7B, arXiv 2310.06825; Yang et al., Qwen2, arXiv 2407.10671.
"""

from dataclasses import dataclass
from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Int

from seq1f1b_jax.config import RopeConfig
from seq1f1b_jax.models.blocks import Heads, SwiGlu, output_std
from seq1f1b_jax.models.decoder import Decoder
from seq1f1b_jax.models.norm import RMSNorm
from seq1f1b_jax.models.rope import UNSTRETCHED, Tables, rotary_tables, rotate


@dataclass(frozen=True, kw_only=True)
class Llama(Decoder):
    """A Llama-shaped decoder.

    Attributes:
      rope_theta: base of the rotary frequencies.
      rope: how the frequencies are stretched for longer sequences.
      qkv_bias: whether query, key and value projections have biases.
      output_bias: whether attention's output projection has one.
    """

    family: ClassVar[str] = "llama"
    gated: ClassVar[bool] = True

    rope_theta: float
    rope: RopeConfig = UNSTRETCHED
    qkv_bias: bool = False
    output_bias: bool = False

    def make_layer(self, rngs: nnx.Rngs) -> "LlamaLayer":
        return LlamaLayer(self, rngs)

    def make_first(self, rngs: nnx.Rngs) -> None:
        return None

    def make_last(self, rngs: nnx.Rngs) -> nnx.Module:
        return RMSNorm(self.model_dim, epsilon=self.norm_eps, rngs=rngs)

    def context(self, positions: Int[Array, "*B T"]) -> Tables:
        return rotary_tables(
            positions, head_dim=self.head_dim, theta=self.rope_theta, rope=self.rope
        )


class LlamaLayer(nnx.Module):
    """One layer: norm, projections, rotary before attention; projection, residual, MLP after it."""

    def __init__(self, sizes: Llama, rngs: nnx.Rngs):
        std = output_std(sizes.num_layers)
        self.tensor = sizes.tensor
        self.attention_norm = RMSNorm(sizes.model_dim, epsilon=sizes.norm_eps, rngs=rngs)
        self.attention = Heads(
            sizes.model_dim, sizes.num_heads, num_kv_heads=sizes.num_kv_heads,
            head_dim=sizes.head_dim, qkv_bias=sizes.qkv_bias, output_bias=sizes.output_bias,
            output_std=std, rngs=rngs,
            tensor=sizes.tensor, whole_kv_heads=sizes.whole_kv_heads,
        )
        self.mlp_norm = RMSNorm(sizes.model_dim, epsilon=sizes.norm_eps, rngs=rngs)
        self.mlp = SwiGlu(
            sizes.model_dim, sizes.mlp_dim, output_std=std, rngs=rngs, tensor=sizes.tensor
        )

    def pre(self, x, context):
        cos, sin = context
        q, k, v = self.attention.split(self.tensor.enter(self.attention_norm, x))
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def post(self, x, attended):
        x = x + self.attention.join(attended)
        return x + self.mlp(self.tensor.enter(self.mlp_norm, x))
