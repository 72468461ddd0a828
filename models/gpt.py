"""GPT-2: LayerNorm before each block, GELU, learned positions, biases everywhere.

Source: Radford et al., Language Models are Unsupervised Multitask Learners (2019), section 2.3.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from seq1f1b_jax.models.blocks import INIT_STD, GeluMlp, Heads, output_std
from seq1f1b_jax.models.decoder import Decoder
from seq1f1b_jax.models.norm import LayerNorm


@dataclass(frozen=True, kw_only=True)
class Gpt(Decoder):
    """A GPT-2-shaped decoder; `max_positions` is the length of its table of learned positions."""

    family: ClassVar[str] = "gpt"
    gated: ClassVar[bool] = False

    max_positions: int

    def make_layer(self, rngs: nnx.Rngs) -> "GptLayer":
        return GptLayer(self, rngs)

    def make_first(self, rngs: nnx.Rngs) -> nnx.Module:
        return Positions(self.max_positions, self.model_dim, rngs=rngs)

    def make_last(self, rngs: nnx.Rngs) -> nnx.Module:
        return LayerNorm(self.model_dim, epsilon=self.norm_eps, rngs=rngs)

    def context(self, positions: Int[Array, "*B T"]) -> tuple[()]:
        return ()


class Positions(nnx.Module):
    """A learned vector per position; NaN beyond the table, where indexing would clamp."""

    def __init__(self, max_positions: int, model_dim: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(INIT_STD)
        self.table = nnx.Param(init(rngs.params(), (max_positions, model_dim), jnp.float32))

    def __call__(self, positions: Int[Array, "*B T"]) -> Float[Array, "*B T d"]:
        return jnp.take(self.table[...], positions, axis=0, mode="fill")


class GptLayer(nnx.Module):
    """One layer: norm and projections before attention; projection, residual and MLP after it."""

    def __init__(self, sizes: Gpt, rngs: nnx.Rngs):
        std = output_std(sizes.num_layers)
        self.tensor = sizes.tensor
        self.attention_norm = LayerNorm(sizes.model_dim, epsilon=sizes.norm_eps, rngs=rngs)
        self.attention = Heads(
            sizes.model_dim, sizes.num_heads, num_kv_heads=sizes.num_kv_heads,
            head_dim=sizes.head_dim, qkv_bias=True, output_bias=True, output_std=std, rngs=rngs,
            tensor=sizes.tensor, whole_kv_heads=sizes.whole_kv_heads,
        )
        self.mlp_norm = LayerNorm(sizes.model_dim, epsilon=sizes.norm_eps, rngs=rngs)
        self.mlp = GeluMlp(
            sizes.model_dim, sizes.mlp_dim, output_std=std, rngs=rngs, tensor=sizes.tensor
        )

    def pre(self, x, context):
        return self.attention.split(self.tensor.enter(self.attention_norm, x))

    def post(self, x, attended):
        x = x + self.attention.join(attended)
        return x + self.mlp(self.tensor.enter(self.mlp_norm, x))
