"""GPT-2: LayerNorm before each block, GELU, biases everywhere; learned positions, or rotary ones.

With rotary positions it is the model of the Seq1F1B paper (arXiv 2406.03488).
Source: Radford et al., Language Models are Unsupervised Multitask Learners (2019), section 2.3;
rotary positions: Su et al., RoFormer, arXiv 2104.09864.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from seq1f1b_jax.config import Positions, RopeConfig
from seq1f1b_jax.models.blocks import INIT_STD, GeluMlp, Heads, output_std
from seq1f1b_jax.models.decoder import Decoder
from seq1f1b_jax.models.norm import LayerNorm
from seq1f1b_jax.models.rope import UNSTRETCHED, Tables, rotary_tables, rotate
from seq1f1b_jax.pipeline.stage import Tree


@dataclass(frozen=True, kw_only=True)
class Gpt(Decoder):
    """A GPT-2-shaped decoder.

    Attributes:
      positions: `learned` or `rotary`.
      max_positions: length of the table of learned positions; None: they are rotary.
      rope_theta: base of the rotary frequencies.
      rope: how the frequencies are stretched for longer sequences.
    """

    family: ClassVar[str] = "gpt"
    gated: ClassVar[bool] = False

    positions: Positions = "learned"
    max_positions: int | None = None
    rope_theta: float = 10000.0
    rope: RopeConfig = UNSTRETCHED

    @property
    def rotary(self) -> bool:
        """Whether positions turn queries and keys."""
        return self.positions == "rotary"

    @property
    def position_tables(self) -> tuple[str, ...]:
        """See `pipeline.stage.position_tables_of`."""
        return () if self.rotary else ("first.table",)

    def make_layer(self, rngs: nnx.Rngs) -> "GptLayer":
        return GptLayer(self, rngs)

    def make_first(self, rngs: nnx.Rngs) -> nnx.Module | None:
        if self.rotary:
            return None
        assert self.max_positions is not None
        return PositionTable(self.max_positions, self.model_dim, rngs=rngs)

    def make_last(self, rngs: nnx.Rngs) -> nnx.Module:
        return LayerNorm(self.model_dim, epsilon=self.norm_eps, rngs=rngs)

    def embed(
        self, first: Tree, x: Float[Array, "B T d"], positions: Int[Array, "*B T"]
    ) -> Float[Array, "B T d"]:
        """Add the learned vector of every position."""
        return x if self.rotary else x + first["table"]

    def context(self, positions: Int[Array, "*B T"]) -> Tables | tuple[()]:
        if not self.rotary:
            return ()
        return rotary_tables(
            positions, head_dim=self.head_dim, theta=self.rope_theta, rope=self.rope
        )


class PositionTable(nnx.Module):
    """A learned vector per position."""

    def __init__(self, max_positions: int, model_dim: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.normal(INIT_STD)
        self.table = nnx.Param(init(rngs.params(), (max_positions, model_dim), jnp.float32))


class GptLayer(nnx.Module):
    """One layer: norm and projections before attention; projection, residual and MLP after it."""

    def __init__(self, sizes: Gpt, rngs: nnx.Rngs):
        std = output_std(sizes.num_layers)
        self.tensor, self.rotary = sizes.tensor, sizes.rotary
        self.attention_norm = LayerNorm(sizes.model_dim, epsilon=sizes.norm_eps, rngs=rngs)
        self.attention = Heads(
            sizes.model_dim, sizes.num_heads, num_kv_heads=sizes.num_kv_heads,
            head_dim=sizes.head_dim, qkv_bias=True, output_bias=True, output_std=std, rngs=rngs,
            tensor=sizes.tensor, whole_kv_heads=sizes.whole_kv_heads, lora=sizes.lora,
        )
        self.mlp_norm = LayerNorm(sizes.model_dim, epsilon=sizes.norm_eps, rngs=rngs)
        self.mlp = GeluMlp(
            sizes.model_dim, sizes.mlp_dim, output_std=std, rngs=rngs, tensor=sizes.tensor,
            lora=sizes.lora,
        )

    def pre(self, x, context):
        q, k, v = self.attention.split(self.tensor.enter(self.attention_norm, x))
        return (rotate(q, *context), rotate(k, *context), v) if self.rotary else (q, k, v)

    def post(self, x, attended):
        x = x + self.attention.join(attended)
        return x + self.mlp(self.tensor.enter(self.mlp_norm, x))
