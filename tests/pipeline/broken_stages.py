"""Stages that break another rule than that tokens stay apart, and what is said of each."""

import itertools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from tests.pipeline.own_stage import OwnStage


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


class Moody(OwnStage):
    """Something else from the fifth call on."""

    calls = itertools.count()

    def final(self, last, y):
        return y * (2 if next(self.calls) > 3 else 1)


class PositionsOfAll(OwnStage):
    """Positions are `[T]` to it."""

    def context(self, positions):
        return jnp.cos(positions)[None, :, None, None]

    def pre(self, layer, x, context):
        q, k, v = super().pre(layer, x, ())
        return q * context.astype(x.dtype), k, v


class NoPositions(OwnStage):
    max_positions = 0


class NoTable(OwnStage):
    max_positions = 8
    position_tables = ("first.table",)


class ShortTable(NoTable):
    def init(self, key):
        return super().init(key)._replace(first={"table": jnp.ones((7, 8))})


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
    "random": (Noisy(), ["Noisy.final returned something else at another call", "pure"]),
    "now and then": (Moody(), ["Moody.final returned something else at another call", "pure"]),
    "one row of positions": (PositionsOfAll(), ["PositionsOfAll.pre with positions [B, T] "]),
    "a mistake": (Mistaken(), ["Mistaken.post raised KeyError", "'gate'"]),
    "missing members": (NoFinal(), ["NoFinal has no vocab_size, model_dim", "final"]),
    "head that is not tied": (HeadBesideTied(tied=True), ["init returned .head as", "tied"]),
    "heads that do not divide": (OwnStage(num_kv_heads=3), ["num_heads=4", "num_kv_heads=3"]),
    "no number": (OwnStage(num_layers="3"), ["OwnStage.num_layers is '3'", "whole number"]),
    "no positions": (NoPositions(), ["NoPositions.max_positions is 0", "or be None"]),
    "zero": (OwnStage(vocab_size=0), ["OwnStage.vocab_size is 0"]),
    "no table": (NoTable(), ["NoTable.position_tables names 'first.table'", "not one of []"]),
    "short table": (ShortTable(), ["'first.table', which is float32[7, 8]", "max_positions is 8"]),
}
