"""Layers that differ, and all that attention, norms and logits may be made of: exact everywhere."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from seq1f1b_jax.models.blocks import Heads
from seq1f1b_jax.models.llama import Llama, LlamaLayer
from seq1f1b_jax.ops.attention import Scoring
from seq1f1b_jax.pipeline import check_stage
from seq1f1b_jax.pipeline.executor.layers.kinds import KindTable
from tests.pipeline import cases
from tests.pipeline.cases import Case
from tests.pipeline.test_exact import check, some_slow

GEMMA3 = dict(
    layer_pattern=["window", "window", "full"], window=4, window_rope_theta=100.0, qk_norm="head",
    norm_placement="both", norm_offset=True, activation="gelu", embedding_scale=4.0,
    attention_scale=0.3,
)
GEMMA2 = dict(
    layer_pattern=["window", "full"], window=5, norm_placement="both", norm_offset=True,
    activation="gelu", attention_softcap=2.0, logit_softcap=3.0,
)
SMOLLM3 = dict(layer_pattern=["full", "full", "full", "unrotated"])
OLMO3 = dict(
    layer_pattern=["window", "full"], window=6, qk_norm="width", norm_placement="after"
)
GRANITE = dict(
    embedding_scale=2.0, residual_scale=0.3, attention_scale=0.4, logit_scale=0.5, mlp_bias=True,
    rotary_dim=2, qkv_bias=True,
)
CASES = {
    "gemma 3, one stage": (GEMMA3, Case(P=1, M=2, C=3, lengths="odd")),
    "gemma 3, stages that differ, tied": (GEMMA3, Case(P=3, M=3, C=2, tied=True)),
    "gemma 3, a ring, packed": (
        GEMMA3, Case(P=2, V=2, M=2, C=2, schedule="seq1f1b-i", masks="restart")
    ),
    "gemma 3, tokens shared by two devices, split": (
        GEMMA3, Case(P=2, T=2, M=2, C=2, schedule="seq-zb-h1", lengths="balanced", sequence=True)
    ),
    "gemma 3, two devices, unrolled, on the host": (
        GEMMA3, Case(P=2, T=2, M=2, C=2, layers="unequal", unroll=3, offload=0.5)
    ),
    "gemma 2, layers unequal, two pipelines": (
        GEMMA2, Case(P=3, D=2, M=2, C=2, layers="unequal", recompute="none")
    ),
    "gemma 2, tokens shared in halves": (
        GEMMA2, Case(P=2, T=2, M=2, C=2, lengths="balanced", sequence=True, halves=True)
    ),
    "smollm 3, four stages, on the host": (
        SMOLLM3, Case(P=4, M=5, C=2, lengths="odd", offload=1.0, layers="unequal")
    ),
    "smollm 3, split, unrolled": (
        SMOLLM3, Case(P=2, M=2, C=2, schedule="seq-zb-h1", unroll=4, layers="unequal")
    ),
    "smollm 3, a ring, everything again": (
        SMOLLM3, Case(P=2, V=2, M=2, C=4, schedule="seq1f1b-i", recompute="full", masks="packed")
    ),
    "olmo 3, everything again": (OLMO3, Case(P=4, M=2, C=3, recompute="full", lengths="odd")),
    "olmo 3, matmuls again": (OLMO3, Case(P=2, M=2, C=2, recompute="matmuls", masks="restart")),
    "granite, one stage": (GRANITE, Case(P=1, M=2, C=2, recompute="matmuls")),
    "granite, split": (GRANITE, Case(P=2, M=3, C=2, schedule="seq-zb-h1", recompute="matmuls")),
    "granite, two devices": (GRANITE, Case(P=2, T=2, M=2, C=2, lengths="odd")),
    "float32": (GEMMA3, Case(P=2, M=2, C=2, x64=False)),
}


EVERY_DAY = (
    "gemma 3, stages that differ, tied", "smollm 3, split, unrolled", "granite, one stage",
)


@pytest.mark.parametrize(
    "fields, case",
    [
        pytest.param(*values, marks=[] if name in EVERY_DAY else pytest.mark.slow)
        for name, values in CASES.items()
    ],
    ids=CASES,
)
def test_models_of_layers_that_differ(fields, case):
    check(case, cases.stage_of(case, **fields))


@dataclass(frozen=True, kw_only=True)
class Scored(Llama):
    """A Llama with sinks, ALiBi and values of another width; its own alternating layers."""

    value_dim: int = 6
    sinks: str | None = "sinks"
    slopes: tuple[float, ...] = (0.5, 0.25, 0.125, 0.0625)

    @property
    def scoring(self) -> Scoring:
        return replace(super().scoring, slopes=self.slopes)

    def of_kind(self, kind):
        alike = replace(self, layer_pattern=())
        return alike if kind == "window" else replace(alike, window=None, slopes=(), rotary=False)

    def make_layer(self, rngs):
        return ScoredLayer(self, rngs)


class ScoredLayer(LlamaLayer):
    def __init__(self, sizes, rngs):
        super().__init__(sizes, rngs)
        self.attention = Heads(
            sizes.model_dim, sizes.num_heads, num_kv_heads=sizes.num_kv_heads,
            head_dim=sizes.head_dim, value_dim=sizes.value_dim, qkv_bias=False, output_bias=False,
            output_std=0.02, rngs=rngs, tensor=sizes.tensor, whole_kv_heads=sizes.whole_kv_heads,
        )
        self.sinks = nnx.Param(jnp.zeros(sizes.num_heads, jnp.float32))


SCORED = {
    "one stage of four devices for two key/value heads": Case(
        P=1, T=4, M=2, C=2, lengths="odd", recompute="none"
    ),
    "one stage, none recomputed": Case(P=1, M=2, C=3, lengths="odd", recompute="none"),
    "stages that differ, everything again": Case(P=3, M=3, C=2, recompute="full"),
    "split, two devices, packed": Case(P=2, T=2, M=2, C=2, schedule="seq-zb-h1", masks="packed"),
    "four devices for two key/value heads": Case(P=2, T=4, M=2, C=2, lengths="odd"),
    "a ring, on the host, dense": Case(
        P=2, V=2, M=2, C=2, schedule="seq1f1b-i", offload=0.5, masks="restart",
        attention=cases.UNBLOCKED,
    ),
    "unrolled": Case(P=2, M=2, C=2, layers="unequal", unroll=3, lengths="balanced"),
}


@pytest.mark.parametrize("case", some_slow(SCORED.values(), every=7), ids=SCORED)
def test_sinks_alibi_and_values_of_another_width(case):
    sizes = dict(cases.SIZES, num_layers=sum(case.layers_per_stage), head_dim=4, tied=False)
    stage = Scored(
        **sizes, norm_eps=1e-5, rope_theta=1e4, layer_pattern=("window", "full"), window=5,
        attention_softcap=2.5,
    )
    check(case, stage)


def test_layers_of_one_kind_ask_nothing():
    table = KindTable((0, 1, 0, 1), (2, 2))
    assert table.at(0, 0) == [(0, True)] and table.at(0, 1) == [(1, True)]
    assert [kind for kind, _ in table.at(jnp.int32(0), jnp.int32(1))] == [0, 1]


class Miscounted(Scored):
    layer_kinds = ("full",)


class Endless(Scored):
    def of_kind(self, kind):
        return self


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (Miscounted, "layer_kinds names 1 layers, and num_layers is 2; give one for each layer"),
        (Endless, "of_kind\\('window'\\) has layer_kinds, too; it must be a stage of one kind"),
    ],
)
def test_kinds_that_cannot_be_are_refused(kind, told):
    sizes = dict(cases.SIZES, num_layers=2, head_dim=4, tied=False, norm_eps=1e-5, rope_theta=1e4)
    with pytest.raises(ValueError, match=told):
        check_stage(kind(**sizes, layer_pattern=("window", "full"), window=5))


def test_a_pattern_is_hashable_and_one_program():
    stage = cases.stage_of(Case(P=2, M=2, C=2), **GEMMA3)
    assert hash(stage) == hash(replace(stage)) and jax.tree.leaves(stage) == [stage]
