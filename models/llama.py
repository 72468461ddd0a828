"""Llama and its relatives: RMSNorm, gated MLP, rotary positions, grouped queries.

    Mistral, Ministral    a `window`, in all layers or in some
    Qwen2, Qwen3          biases on queries, keys and values; a norm of each query and key head
    SmolLM3               no positions in every fourth layer
    Gemma 2, Gemma 3      norms before and after, 1 + weight; GELU; soft caps; some windows
    OLMo 2, OLMo 3        norms after, and over all query or key heads at once
    Phi-3, Phi-4          rotary positions in a part of the dims of a head
    Granite 3             four multipliers
    Mixtral, OLMoE, Qwen3-MoE    experts

Source: Touvron et al., LLaMA, arXiv 2302.13971, section 2.2; grouped queries: arXiv 2305.13245;
Jiang et al., Mistral 7B, arXiv 2310.06825; Yang et al., Qwen2, arXiv 2407.10671; Qwen3, arXiv
2505.09388; Gemma 2, arXiv 2408.00118; Gemma 3, arXiv 2503.19786; OLMo 2, arXiv 2501.00656.
"""

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from seq1f1b_jax.config import Activation, LayerKind, NormPlacement, QkNorm, RopeConfig
from seq1f1b_jax.models.blocks import GatedMlp, Heads, output_std
from seq1f1b_jax.models.decoder import Decoder
from seq1f1b_jax.models.experts import Experts
from seq1f1b_jax.models.norm import RMSNorm
from seq1f1b_jax.models.rope import UNSTRETCHED, Tables, rotary_tables, rotate
from seq1f1b_jax.ops.attention import Scoring
from seq1f1b_jax.ops.tensor import TensorAxis
from seq1f1b_jax.pipeline.stage import Tree


@dataclass(frozen=True, kw_only=True)
class Llama(Decoder):
    """A Llama-shaped decoder; `config.ModelConfig` describes the fields that it shares.

    Attributes:
      rope_theta: base of the rotary frequencies.
      rope: how the frequencies are stretched for longer sequences.
      rotary_dim: dims of a head that are turned, its first ones; `None`: all.
      rotary: whether positions turn queries and keys at all.
      layer_pattern: kinds of the layers, repeated along the model; empty: all are alike.
      window_rope_theta: base of the frequencies of window layers, which are not stretched then.
      qkv_bias: whether query, key and value projections have biases.
      output_bias: whether attention's output projection has one.
      mlp_bias: whether those of the MLP have.
      qk_norm: of queries and keys: none, of each head, or over all heads.
      norm_placement: of the norms of a sublayer: before it, after it, or both.
      norm_offset: whether norms scale by 1 + weight.
      activation: of the MLP's gate.
      num_experts: MLPs of a layer, each of width `mlp_dim`; 0: one, without a router.
      experts_per_token: of which a router chooses so many for each token.
      normalize_experts: whether the weights of a token's experts sum to 1.
      attention_scale: factor of query-key products.
      attention_softcap: largest score.
      logit_softcap: largest logit.
      embedding_scale, residual_scale, logit_scale: factors of embeddings, of what a sublayer adds,
        of logits.
    """

    family: ClassVar[str] = "llama"
    gated: ClassVar[bool] = True

    rope_theta: float
    rope: RopeConfig = UNSTRETCHED
    rotary_dim: int | None = None
    rotary: bool = True
    layer_pattern: tuple[LayerKind, ...] = ()
    window_rope_theta: float | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: QkNorm = "none"
    norm_placement: NormPlacement = "before"
    norm_offset: bool = False
    activation: Activation = "silu"
    num_experts: int = 0
    experts_per_token: int = 0
    normalize_experts: bool = True
    attention_scale: float | None = None
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_scale: float | None = None
    residual_scale: float | None = None
    logit_scale: float | None = None

    @property
    def scoring(self) -> Scoring:
        """See `pipeline.stage.scoring_of`."""
        return Scoring(self.window, self.attention_scale, self.attention_softcap)

    @property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """See `pipeline.stage.kinds_of`."""
        pattern = self.layer_pattern
        return tuple(pattern[i % len(pattern)] for i in range(self.num_layers)) if pattern else ()

    def of_kind(self, kind: LayerKind) -> "Llama":
        """See `pipeline.stage.of_kind`."""
        return _of_kind(self, kind)

    def shard(self, tensor: TensorAxis) -> "Decoder":
        """See `Decoder.shard`; a norm over all heads would need those of other devices.

        Raises:
          ValueError: there is such a norm, or sizes do not divide evenly.
        """
        if self.qk_norm == "width":
            raise ValueError(
                f"qk_norm='width' is one norm over all heads, which tensor={tensor.size} devices "
                "would share; use --mesh.tensor 1"
            )
        return super().shard(tensor)

    def make_layer(self, rngs: nnx.Rngs) -> "LlamaLayer":
        return LlamaLayer(self, rngs)

    def make_first(self, rngs: nnx.Rngs) -> None:
        return None

    def make_last(self, rngs: nnx.Rngs) -> nnx.Module:
        return self.make_norm(self.model_dim, rngs=rngs)

    def make_norm(self, width: int, *, rngs: nnx.Rngs, parts: int = 1) -> RMSNorm:
        """A norm as all of this model."""
        return RMSNorm(
            width, epsilon=self.norm_eps, rngs=rngs, offset=self.norm_offset, parts=parts
        )

    def make_mlp(self, *, output_std: float, rngs: nnx.Rngs) -> nnx.Module:
        """The MLP of a layer, or its experts."""
        sizes = (self.model_dim, self.mlp_dim)
        options = {"activation": self.activation, "tensor": self.tensor}
        if not self.num_experts:
            return GatedMlp(
                *sizes, output_std=output_std, rngs=rngs, bias=self.mlp_bias, lora=self.lora,
                **options,
            )
        return Experts(
            *sizes, num_experts=self.num_experts, experts_per_token=self.experts_per_token,
            normalize=self.normalize_experts, output_std=output_std, rngs=rngs, **options,
        )

    def context(self, positions: Int[Array, "*B T"]) -> Tables | tuple[()]:
        if not self.rotary:
            return ()
        return rotary_tables(
            positions, head_dim=self.rotary_dim or self.head_dim, theta=self.rope_theta,
            rope=self.rope,
        )

    def embed(
        self, first: Tree, x: Float[Array, "B T d"], positions: Int[Array, "*B T"]
    ) -> Float[Array, "B T d"]:
        """Looked-up embedding rows, scaled."""
        return _scaled(x, self.embedding_scale)

    def final(self, last: Tree, y: Float[Array, "B T d"]) -> Float[Array, "B T d"]:
        """The final norm, and the scale of the logits."""
        return _scaled(super().final(last, y), self.logit_scale)


@cache
def _of_kind(model: Llama, kind: LayerKind) -> Llama:
    alike = replace(model, layer_pattern=())
    if kind != "window":
        return replace(alike, window=None, rotary=model.rotary and kind != "unrotated")
    if model.window_rope_theta is None:
        return alike
    return replace(alike, rope_theta=model.window_rope_theta, rope=UNSTRETCHED)


class LlamaLayer(nnx.Module):
    """One layer: norm, projections, rotary before attention; projection, residual, MLP after it."""

    def __init__(self, sizes: Llama, rngs: nnx.Rngs):
        std, d = output_std(sizes.num_layers), sizes.model_dim
        self.tensor, self.rotary, self.rotary_dim = sizes.tensor, sizes.rotary, sizes.rotary_dim
        self.residual_scale, self.placement = sizes.residual_scale, sizes.norm_placement
        self.routes = sizes.num_experts > 0
        norm = partial(sizes.make_norm, rngs=rngs)
        # after a sublayer, devices that do not share the tokens compute the same
        parts = sizes.tensor.size // sizes.tensor.token_parts
        # in this order: it decides which random numbers a weight begins with
        if self.placement != "after":
            self.attention_norm = norm(d)
        self.attention = Heads(
            d, sizes.num_heads, num_kv_heads=sizes.num_kv_heads,
            head_dim=sizes.head_dim, qkv_bias=sizes.qkv_bias, output_bias=sizes.output_bias,
            output_std=std, rngs=rngs,
            tensor=sizes.tensor, whole_kv_heads=sizes.whole_kv_heads,
            norm=None if sizes.qk_norm == "none" else norm, whole_norm=sizes.qk_norm == "width",
            lora=sizes.lora,
        )
        if self.placement != "after":
            self.mlp_norm = norm(d)
        self.mlp = sizes.make_mlp(output_std=std, rngs=rngs)
        if self.placement != "before":
            self.attention_post_norm = norm(d, parts=parts)
            self.mlp_post_norm = norm(d, parts=parts)

    def pre(self, x, context):
        norm = _same if self.placement == "after" else self.attention_norm
        q, k, v = self.attention.split(self.tensor.enter(norm, x))
        return (self._turn(q, context), self._turn(k, context), v) if self.rotary else (q, k, v)

    def post(self, x, attended):
        return self.routed(x, attended)[0]

    def routed(self, x, attended):
        added = self.attention.join(attended)
        if self.placement != "before":
            added = self.attention_post_norm(added)
        x = x + _scaled(added, self.residual_scale)
        norm = _same if self.placement == "after" else self.mlp_norm
        added, sums = self.mlp(self.tensor.enter(norm, x)), ()
        if self.routes:
            added, sums = added
        if self.placement != "before":
            added = self.mlp_post_norm(added)
        return x + _scaled(added, self.residual_scale), sums

    def _turn(self, x, context):
        if self.rotary_dim is None:
            return rotate(x, *context)
        turned, kept = jnp.split(x, [self.rotary_dim], axis=-1)
        return jnp.concatenate([rotate(turned, *context), kept], axis=-1)


def _same(x: Array) -> Array:
    return x


def _scaled(x: Array, scale: float | None) -> Array:
    return x if scale is None else x * jnp.asarray(scale, x.dtype)
