"""Few and unevenly spread targets: the mean is over the whole step, whatever cuts it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.pipeline import cases
from tests.pipeline.cases import Case
from tests.pipeline.errors import relative_errors

LONG, SHORT = 0.9, 0.04
"""Share of counted tokens in the first microbatch of the first pipeline, and in all others."""
EVERYDAY = Case(P=2, D=2, M=3, C=2, lengths="balanced", masks="packed")
MORE = {
    "one pipeline": Case(P=2, M=3, C=2, batch=2, masks="restart"),
    "two pipelines, odd chunks": Case(P=2, D=2, M=2, C=3, lengths="odd", masks="packed"),
    "four pipelines of one stage": Case(P=1, D=4, M=3, C=2, batch=2),
    "split backward, whole sequences": Case(P=2, M=4, C=1, schedule="seq-zb-h1", masks="restart"),
}


def masked(case: Case):
    """The case's batch; one sequence has most of the targets, one microbatch and one row none."""
    tokens, targets, starts = cases.batch_of(case)
    rng = np.random.default_rng(5)
    share = np.full((*targets.shape[:2], 1), SHORT)
    share[0, 0] = LONG
    counted = rng.random(targets.shape) < share
    counted[-1], counted[0, -1] = False, counted[0, -1] & (targets.shape[1] == 1)
    return tokens, jnp.where(counted, targets, -1), starts


def check(case: Case) -> None:
    step, batch = cases.build(case), masked(case)
    params = cases.parameters(step.stage, case.dtype)
    placed = step.from_canonical(params)
    run = jax.jit(step.loss_and_grads)
    loss, grads = run(placed, *batch)
    expected_loss, expected = cases.reference(
        step.stage, params, batch, case.dtype, restart="restart" in case.masks
    )
    errors = relative_errors(step.to_canonical(grads), expected)
    errors["loss"] = abs(float(loss) / float(expected_loss) - 1)
    assert {name: e for name, e in errors.items() if not e <= 1e-10} == {}
    tokens, targets, starts = batch
    loss, grads = run(placed, tokens, jnp.full_like(targets, -1), starts)
    assert float(loss) == 0
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(grads))


def test_unequal_counts_are_one_mean(x64):
    check(EVERYDAY)


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE.values(), ids=MORE)
def test_unequal_counts_are_one_mean_elsewhere(x64, case):
    check(case)
