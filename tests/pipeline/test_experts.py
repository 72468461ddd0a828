"""Experts in a pipeline: every gradient equals that of all experts computed for every token."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest

from seq1f1b_jax.models.experts import Experts
from seq1f1b_jax.models.llama import Llama
from seq1f1b_jax.ops.router import RouterSums
from seq1f1b_jax.pipeline import check_stage
from tests.pipeline import cases
from tests.pipeline.cases import Case
from tests.pipeline.test_exact import check
from tests.pipeline.test_trained import check_trained

MIXTRAL = dict(num_experts=4, experts_per_token=2)
OLMOE = dict(num_experts=6, experts_per_token=3, normalize_experts=False, qk_norm="width")
QWEN3 = dict(num_experts=7, experts_per_token=3, qk_norm="head")
LOSSES = dict(balance_loss=0.3, router_z_loss=0.05)
CASES = {
    "mixtral, one stage": (MIXTRAL, Case(P=1, M=2, C=3, lengths="odd")),
    "qwen 3, unequal stages, tied": (
        QWEN3, Case(P=3, M=3, C=2, tied=True, layers="unequal", batch=2)
    ),
    "qwen 3, a ring, packed": (
        QWEN3, Case(P=2, V=2, M=3, C=2, schedule="seq1f1b-i", masks="restart")
    ),
    "mixtral, split, two devices": (
        MIXTRAL, Case(P=2, T=2, M=2, C=2, schedule="seq-zb-h1", lengths="balanced", sequence=True)
    ),
    "qwen 3, split, documents, none recomputed": (
        QWEN3, Case(P=2, M=3, C=3, schedule="seq-zb-h1", recompute="none", masks="packed", batch=2)
    ),
    "qwen 3, four devices, two pipelines": (
        QWEN3, Case(P=1, D=2, T=4, M=2, C=2, lengths="odd", recompute="none")
    ),
    "olmoe, everything again, four stages": (
        OLMOE, Case(P=4, M=2, C=3, recompute="full", lengths="odd")
    ),
    "olmoe, matmuls again, split": (
        OLMOE, Case(P=2, M=2, C=2, recompute="matmuls", schedule="seq-zb-h1")
    ),
    "mixtral, unrolled, on the host, two pipelines": (
        MIXTRAL, Case(P=2, D=2, M=2, C=2, layers="unequal", unroll=3, offload=0.5)
    ),
    "mixtral, tokens shared in halves": (
        MIXTRAL,
        Case(P=2, T=2, M=2, C=2, lengths="balanced", sequence=True, halves=True, masks="restart"),
    ),
    "whole sequences": (QWEN3, Case(P=2, M=3, C=1)),
    "terapipe": (MIXTRAL, Case(P=2, M=2, C=4, schedule="terapipe", layers="unequal")),
    "a window in some layers": (
        MIXTRAL | dict(layer_pattern=["window", "full"], window=4, norm_placement="both"),
        Case(P=2, M=2, C=2, lengths="odd"),
    ),
    "float32": (QWEN3, Case(P=2, M=2, C=2, x64=False)),
}
EVERY_DAY = ("mixtral, split, two devices", "mixtral, unrolled, on the host, two pipelines")


class AllExperts(Experts):
    """The slow obvious twin: every expert computes every token, and most are multiplied by 0."""

    def __call__(self, h):
        logits = h @ self.router.kernel[...]
        probability = jax.nn.softmax(logits, axis=-1)
        chosen = (probability[..., None, :] > probability[..., None]).sum(-1)
        chosen = chosen < self.experts_per_token  # so many are more probable
        weights = probability * chosen
        if self.normalize:
            weights = weights / weights.sum(-1, keepdims=True)
        kernels = self.experts.kernels
        gate, up = (jnp.einsum("btd,edf->btef", h, kernel) for kernel in kernels[:2])
        y = jnp.einsum("bte,btef,efd->btd", weights, jax.nn.silu(gate) * up, kernels.down)
        z = jnp.log(jnp.exp(logits).sum(-1)) ** 2
        return y, RouterSums(chosen.sum(1).astype(h.dtype), probability.sum(1), z.sum(1))


@dataclass(frozen=True, kw_only=True)
class Twin(Llama):
    """A Llama of such experts."""

    def make_mlp(self, **options):
        experts = super().make_mlp(**options)
        experts.__class__ = AllExperts
        return experts


@pytest.mark.parametrize(
    "fields, case",
    [
        pytest.param(*values, marks=[] if name in EVERY_DAY else pytest.mark.slow)
        for name, values in CASES.items()
    ],
    ids=CASES,
)
def test_experts_are_exact(fields, case):
    stage = cases.stage_of(case, **fields)
    check(case, stage, twin=Twin(**vars(stage)), **LOSSES)


FROZEN = {
    "router only, split": (("*.router.*",), Case(P=2, M=2, C=2, schedule="seq-zb-h1")),
    "one matrix of the experts, split, two devices": (
        ("*.experts.down.*",), Case(P=2, T=2, M=2, C=2, schedule="seq-zb-h1", recompute="none")
    ),
    "all but experts, everything again": (
        ("*.attention.*", "*.router.*"), Case(P=2, M=2, C=2, recompute="full")
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("patterns, case", FROZEN.values(), ids=FROZEN)
def test_a_part_of_the_experts_trains(patterns, case):
    check_trained(case, patterns, cases.stage_of(case, **QWEN3))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_experts_are_token_wise(dtype, recwarn):
    check_stage(cases.stage_of(Case(), **QWEN3), compute_dtype=dtype)
    assert not recwarn.list
