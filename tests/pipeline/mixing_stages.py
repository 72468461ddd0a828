"""Stages in which tokens meet, or that tell them apart by their index, and what is said of each."""


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


class TableOfTheChunkInEmbed(OwnStage):
    """As many rows as the check has tokens."""

    def init(self, key):
        params = super().init(key)
        return params._replace(first={"table": jnp.ones((128, self.model_dim))})

    def embed(self, first, x, positions):
        return x + first["table"][: x.shape[1]]


class StateOfBlocksInPost(OwnStage):
    """A loop over blocks of tokens that carries a state."""

    def post(self, layer, x, attended):
        blocks = jnp.moveaxis(x.reshape(x.shape[0], -1, 32, x.shape[2]), 1, 0)
        state = jnp.zeros(x.shape[::2], x.dtype)
        _, before = jax.lax.scan(lambda s, b: (s + b[:, 0], s[:, None] + b), state, blocks)
        return super().post(layer, jnp.moveaxis(before, 0, 1).reshape(x.shape), attended)


class HalvesSwappedInPost(OwnStage):
    def post(self, layer, x, attended):
        halves = x.reshape(x.shape[0], 2, -1, x.shape[2])
        return super().post(layer, halves[:, ::-1].reshape(x.shape), attended)


class PairsInPost(OwnStage):
    def post(self, layer, x, attended):
        pairs = x.reshape(x.shape[0], -1, 2, x.shape[2])
        mixed = jnp.einsum("btpd,pq->btqd", pairs, layer["up"][:2, :2])
        return super().post(layer, mixed.reshape(x.shape), attended)


class TokenBeforeInPost(OwnStage):
    """Read by index."""

    def post(self, layer, x, attended):
        b, t = np.arange(x.shape[0])[:, None], np.maximum(np.arange(x.shape[1]) - 1, 0)
        return super().post(layer, x + x[b, t, jnp.argmax(x, -1)][..., None], attended)


class FullExpertsInPost(OwnStage):
    """An expert takes its first 96 tokens and no more."""

    def post(self, layer, x, attended):
        choice = jnp.argmax(x @ layer["up"][:, :4], -1)
        order = jnp.argsort(choice, axis=1)
        ordered = jnp.take_along_axis(choice, order, axis=1)
        first = jax.vmap(lambda row: jnp.searchsorted(row, row, method="compare_all"))(ordered)
        place = jnp.argsort(order, axis=1)  # in the order of experts
        rank = place - jnp.take_along_axis(first, place, axis=1)
        return super().post(layer, jnp.where((rank < 96)[..., None], x, 0), attended)


class LittleOfASortInFinal(OwnStage):
    def final(self, last, y):
        return super().final(last, y + 0.03 * jnp.sort(y, axis=1))


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
    "a table of the chunk": (TableOfTheChunkInEmbed(), "embed", "x that depends on where in the c"),
    "a state of blocks": (StateOfBlocksInPost(), "post", "x that depends on other tokens (s"),
    "halves swapped": (HalvesSwappedInPost(), "post", "(rev)"),
    "pairs": (PairsInPost(), "post", "x that depends on other tokens (dot_general)"),
    "the token before, by index": (TokenBeforeInPost(), "post", "x that depends on other tokens"),
    "experts that are full": (FullExpertsInPost(), "post", "x that depends on other tokens"),
    "a little of a sort": (LittleOfASortInFinal(), "final", "y that depends on other t"),
}  # fmt: skip
