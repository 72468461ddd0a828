"""Stages that break a rule each, and what is said of them."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from tests.pipeline.own_stage import OwnStage


class ShiftInPre(OwnStage):
    def pre(self, layer, x, context):
        before = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        return super().pre(layer, (x + before) / 2, context)


class MeanInPost(OwnStage):
    def post(self, layer, x, attended):
        return super().post(layer, x, attended) + x.mean(axis=1, keepdims=True)


class ConvolutionInEmbed(OwnStage):
    def embed(self, first, x, positions):
        kernel = jnp.full((4, 1, self.model_dim), 0.25, x.dtype)
        return jax.lax.conv_general_dilated(
            x, kernel, (1,), [(3, 0)], dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=self.model_dim,
        )


class NormOverTokensInFinal(OwnStage):
    def final(self, last, y):
        return y / jnp.linalg.norm(y, axis=1, keepdims=True)


class RollInPre(OwnStage):
    def pre(self, layer, x, context):
        q, k, v = super().pre(layer, x, context)
        return q, jnp.roll(k, 1, axis=1), v


class SumSoFarInPost(OwnStage):
    def post(self, layer, x, attended):
        return super().post(layer, x, attended) + 0.1 * jnp.cumsum(x, axis=1)


class AttentionInPost(OwnStage):
    def post(self, layer, x, attended):
        weights = jax.nn.softmax(jnp.einsum("bqd,bkd->bqk", x, x))
        return super().post(layer, x + jnp.einsum("bqk,bkd->bqd", weights, x), attended)


class BatchNormInFinal(OwnStage):
    def final(self, last, y):
        return y - y.mean(axis=0, keepdims=True)


class LoopOverTokensInPost(OwnStage):
    def post(self, layer, x, attended):
        def step(state, token):
            state = 0.5 * state + token
            return state, state

        _, states = jax.lax.scan(step, jnp.zeros_like(x[:, 0]), jnp.swapaxes(x, 0, 1))
        return super().post(layer, jnp.swapaxes(states, 0, 1), attended)


class SortInFinal(OwnStage):
    def final(self, last, y):
        return jnp.sort(y, axis=1)


@jax.custom_vjp
def _shifted_back(x):
    return x


_shifted_back.defvjp(lambda x: (x, None), lambda _, dy: (jnp.roll(dy, -1, axis=1),))


class GradientShiftInPost(OwnStage):
    """Right in its values only."""

    def post(self, layer, x, attended):
        return super().post(layer, _shifted_back(x), attended)


class IndexInPre(OwnStage):
    """Positions from the chunk's length: every chunk would begin at 0."""

    def pre(self, layer, x, context):
        q, k, v = super().pre(layer, x, context)
        return q, k * jnp.cos(jnp.arange(x.shape[1], dtype=x.dtype))[:, None, None], v


class FirstPositionInContext(OwnStage):
    """Positions relative to the chunk."""

    def context(self, positions):
        return positions - positions[0]

    def pre(self, layer, x, context):
        q, k, v = super().pre(layer, x, ())
        return q * jnp.cos(context.astype(x.dtype))[:, None, None], k, v


class DropoutInPost(OwnStage):
    def post(self, layer, x, attended):
        kept = jax.random.bernoulli(jax.random.key(0), 0.9, x.shape)
        return super().post(layer, jnp.where(kept, x / 0.9, 0), attended)


# id -> stage, function that is named, what else the line says
MIXES = {
    "a shift in pre": (ShiftInPre(), "pre", "q that depends on other tokens (pad)"),
    "a mean in post": (MeanInPost(), "post", "x that depends on other tokens (reduce_sum)"),
    "a causal convolution in embed": (ConvolutionInEmbed(), "embed", "(conv_general_dilated)"),
    "a norm over tokens in final": (NormOverTokensInFinal(), "final", "y that depends on other t"),
    "a roll of keys in pre": (RollInPre(), "pre", "k that depends on other tokens"),
    "a running sum in post": (SumSoFarInPost(), "post", "(cumsum)"),
    "attention in post": (AttentionInPost(), "post", "(dot_general)"),
    "a loop over tokens in post": (LoopOverTokensInPost(), "post", "(scan)"),
    "a sort in final": (SortInFinal(), "final", "y that depends on other tokens (sort)"),
    "a batch norm in final": (BatchNormInFinal(), "final", "depends on other sequences"),
    "a shift in a gradient": (GradientShiftInPost(), "post", "the gradient of x that depends on"),
    "an index for a position in pre": (IndexInPre(), "pre", "k that depends on where in the chunk"),
    "chunk-relative positions": (FirstPositionInContext(), "pre", "q that depends on other tokens"),
    "dropout in post": (DropoutInPost(), "post", "x that depends on where in the chunk"),
}  # fmt: skip


class ThreeHeadsOfKeys(OwnStage):
    def pre(self, layer, x, context):
        q, k, v = super().pre(layer, x, context)
        return q, jnp.concatenate([k, k[:, :, :1]], axis=2), v


class WideInPost(OwnStage):
    def post(self, layer, x, attended):
        return super().post(layer, x, attended).astype(jnp.float32)


class TwoOfThreeInPre(OwnStage):
    def pre(self, layer, x, context):
        return super().pre(layer, x, context)[:2]


class NothingInFinal(OwnStage):
    def final(self, last, y):
        return None


class ShortLayers(OwnStage):
    def init(self, key):
        return replace(OwnStage(), num_layers=2).init(key)


class HalfVocabulary(OwnStage):
    def init(self, key):
        params = super().init(key)
        return params._replace(head=params.head[:6])


class HeadBesideTied(OwnStage):
    def init(self, key):
        return OwnStage().init(key)


class HalfPrecision(OwnStage):
    def init(self, key):
        return jax.tree.map(lambda a: a.astype(jnp.bfloat16), super().init(key))


class PlainTuple(OwnStage):
    def init(self, key):
        return tuple(super().init(key))


class Noisy(OwnStage):
    def final(self, last, y):
        return y * np.random.default_rng().normal()


class Mistaken(OwnStage):
    def post(self, layer, x, attended):
        return x @ layer["gate"]


@dataclass(frozen=True)
class NoFinal:
    num_layers: int = 1


# id -> stage, what the line says
BREAKS = {
    "heads of keys": (
        ThreeHeadsOfKeys(),
        ["ThreeHeadsOfKeys.pre returned", "[2, 128, 3, 2]", "must return", "k bfloat16[2, 128, 2"],
    ),
    "dtype": (WideInPost(), ["WideInPost.post returned float32", "x bfloat16[2, 128, 8]", "dtype"]),
    "two of three": (TwoOfThreeInPre(), ["TwoOfThreeInPre.pre returned", "v bfloat16"]),
    "nothing": (NothingInFinal(), ["NothingInFinal.final returned None for y", "must return y"]),
    "layers": (ShortLayers(), ["ShortLayers.init returned .layers['down']", "num_layers is 3"]),
    "vocabulary": (HalfVocabulary(), [".head as float32[6, 8]", "[vocab_size, model_dim]"]),
    "parameters' dtype": (HalfPrecision(), ["init returned .layers['down'] as bfloat16[3, "]),
    "no Params": (PlainTuple(), ["PlainTuple.init returned a tuple", "pipeline.Params"]),
    "random": (Noisy(), ["Noisy.final returned something else at its second call", "pure"]),
    "a mistake": (Mistaken(), ["Mistaken.post raised KeyError", "'gate'"]),
    "missing members": (NoFinal(), ["NoFinal has no vocab_size, model_dim", "final"]),
    "head that is not tied": (HeadBesideTied(tied=True), ["init returned .head as", "tied"]),
    "heads that do not divide": (OwnStage(num_kv_heads=3), ["num_heads=4", "num_kv_heads=3"]),
    "no number": (OwnStage(num_layers="3"), ["OwnStage.num_layers is '3'", "whole number"]),
    "zero": (OwnStage(vocab_size=0), ["OwnStage.vocab_size is 0"]),
}
