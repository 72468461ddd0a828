"""Unused slots, blank messages and padded layers hold NaN, and nothing changes, bit for bit."""

import chex
import jax
import numpy as np
import pytest

from tests.pipeline import cases
from tests.pipeline.cases import Case

CASES = {
    "unequal layers and chunks": Case(P=3, M=2, C=2, lengths="odd", layers="unequal"),
    "stores all, long warm-up": Case(P=4, M=5, C=2, recompute="none", extra_warmup=2),
    "fewer microbatches than stages": Case(P=4, M=1, C=3, recompute="full", tied=True),
    "ring with an inbox": Case(
        P=2, V=2, M=3, C=2, lengths="odd", layers="unequal", schedule="seq1f1b-i"
    ),
    "documents": Case(P=2, M=2, C=2, lengths="odd", masks="restart", batch=2),
    "split backwards": Case(P=3, M=3, C=2, lengths="odd", schedule="seq-zb-h1"),
}

EVERYDAY = ("split backwards",)


def with_padding(params, layout, value: float):
    """In-memory parameters whose padded layers hold `value`."""
    padded = np.ones((layout.num_ranks, layout.rank_layers), bool)
    for run in layout.runs("layer"):
        padded[run.rank, run.position : run.position + run.count] = False

    def fill(leaf):
        mask = padded.reshape(padded.shape + (1,) * (leaf.ndim - 2))
        return jax.device_put(np.where(mask, value, np.asarray(leaf)), leaf.sharding)

    return params._replace(layers=jax.tree.map(fill, params.layers))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=[pytest.mark.slow] * (name not in EVERYDAY))
        for name, case in CASES.items()
    ],
)
def test_nan_in_what_is_not_computed_changes_nothing(x64, case):
    check(case)


@pytest.mark.slow
def test_tally_and_choices_of_experts_are_written_before_they_are_read(x64):
    case = Case(P=3, M=3, C=2, layers="unequal", schedule="seq-zb-h1", batch=2)
    check(case, cases.stage_of(case, num_experts=5, experts_per_token=2), balance_loss=0.1)


def check(case, stage=None, **options):
    results = []
    for fill in (None, float("nan")):
        step = cases.build(case, fill=fill, stage=stage, **options)
        params = step.from_canonical(cases.parameters(step.stage, case.dtype))
        params = with_padding(params, step.layout, step.program(1).blank)
        loss, grads = jax.jit(step.loss_and_grads)(params, *cases.batch_of(case))
        results.append((np.asarray(loss), step.to_canonical(grads)))
    assert np.isfinite(results[0][0])
    chex.assert_trees_all_equal(*results)
