"""Exactness: pipelined loss and every gradient leaf equal plain `jax.grad` on whole sequences."""

import contextlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seq1f1b_jax.schedule import SCHEDULES
from tests.pipeline import cases
from tests.pipeline.cases import Case
from tests.pipeline.errors import relative_errors

TOLERANCE = {True: 1e-10, False: 1e-5}
"""max|difference| / max|reference| per leaf, float64 and float32: rounding of reordered sums."""


UNROLLED = {
    "layers that some stages lack, documents": Case(
        P=3, M=2, C=2, layers="unequal", lengths="odd", masks="restart", unroll=2
    ),
    "split, layers cut over two devices": Case(
        P=2, T=2, M=2, C=2, schedule="seq-zb-h1", family="gpt", recompute="full", sequence=True,
        unroll=2,
    ),
    "the first of two layers waits in host memory": Case(
        P=2, M=2, C=2, lengths="balanced", offload=0.5, unroll=2
    ),
    "a layer beside the head, two elsewhere, both in host memory": Case(
        P=3, M=2, C=2, layers="balanced", lengths="balanced", offload=1.0, unroll=2
    ),
}
"""Every layer its own part of the program; else layers are a loop."""
POSITIONS = {
    "learned, 20 rows on six devices, tokens shared": Case(
        P=3, T=2, M=2, C=2, lengths="balanced", family="gpt", masks="restart", tied=True,
        sequence=True,
    ),
    "learned, a ring of two pipelines of four devices": Case(
        P=2, T=2, D=2, V=2, M=2, C=2, schedule="seq1f1b-i", family="gpt", masks="restart",
    ),
    "learned, 22 rows on four ranks, split": Case(
        P=4, M=2, C=3, lengths="odd", schedule="seq-zb-h1", family="gpt", batch=2,
    ),
    "rotary gpt, one stage of two devices, halves": Case(
        P=1, T=2, M=2, C=2, family="gpt rotary", masks="restart", sequence=True, halves=True,
    ),
    "rotary gpt, a ring, tied": Case(
        P=2, V=2, M=2, C=2, schedule="seq1f1b-i", family="gpt rotary", recompute="full", tied=True,
    ),
    "rotary gpt, odd chunks, documents, four pipelines": Case(
        P=2, D=4, M=2, C=3, lengths="odd", family="gpt rotary", recompute="none", masks="restart",
    ),
}
"""Tables of positions are cut by rows, also where that leaves some devices padding only."""


def some_slow(values, *, every: int) -> list:
    """The values as parameters, of which only the first of so many runs every day."""
    return [
        value if index % every == 0 else pytest.param(value, marks=pytest.mark.slow)
        for index, value in enumerate(values)
    ]


def check(case: Case, stage=None, *, twin=None, **losses) -> None:
    """Compare a case, of another stage if one is given, with plain `jax.grad`, of its twin."""
    with jax.enable_x64(True) if case.x64 else contextlib.nullcontext():
        step = cases.build(case, stage=stage, **losses)
        params = cases.parameters(step.stage, case.dtype)
        batch = cases.batch_of(case)
        placed = step.from_canonical(params)
        loss, grads = jax.jit(step.loss_and_grads)(placed, *batch)
        grads = step.to_canonical(jax.device_get(grads))  # from devices: test_rows
    with jax.enable_x64(True):  # of the same numbers: the reference adds no rounding of its own
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), params)
        expected_loss, expected = cases.reference(
            twin or step.stage, wide, batch, jnp.float64, restart="restart" in case.masks,
            **losses,
        )
    errors = relative_errors(grads, expected)
    errors["loss"] = abs(float(loss) - float(expected_loss)) / abs(float(expected_loss))
    bad = {path: error for path, error in errors.items() if not error <= TOLERANCE[case.x64]}
    assert not bad, f"{len(bad)} of {len(errors)} differ: {bad}"


TRAPS_MARKED = [
    pytest.param(case, marks=() if name in cases.EVERYDAY_TRAPS else pytest.mark.slow)
    for name, case in cases.TRAPS.items()
]


@pytest.mark.parametrize("case", TRAPS_MARKED, ids=cases.TRAPS.keys())
def test_trap(case):
    check(case)


UNROLLED_MARKED = [
    # every day unrolled on two devices, a part on the host: test_kinds; split on two devices: traps
    pytest.param(case, marks=pytest.mark.slow if case.T == 2 or case.offload == 0.5 else ())
    for case in UNROLLED.values()
]


@pytest.mark.parametrize("case", UNROLLED_MARKED, ids=UNROLLED.keys())
def test_unrolled(case):
    check(case)


@pytest.mark.parametrize("case", some_slow(POSITIONS.values(), every=4), ids=POSITIONS.keys())
def test_positions(case):
    check(case)


COVER = cases.pairwise_cases()[len(cases.TRAPS) :]
EVERY_DAY = cases.every_day(COVER)
COVER_MARKED = [
    pytest.param(case, marks=() if case in EVERY_DAY else pytest.mark.slow) for case in COVER
]


@pytest.mark.parametrize("case", COVER_MARKED, ids=[case.id for case in COVER])
def test_pairwise(case):
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", cases.long_cases(), ids=lambda case: case.id)
def test_three_wise(case):
    check(case)


def test_suite_sizes_and_cover():
    everyday, long = cases.pairwise_cases(), cases.long_cases()
    assert len(everyday) <= 40 and len(everyday) + len(long) <= 300
    pairs = [("P", "C"), ("P", "M"), ("C", "recompute"), ("lengths", "family")]
    pairs += [("masks", "C"), ("masks", "schedule"), ("masks", "attention")]
    pairs += [("schedule", other) for other in ("C", "M", "lengths", "layers", "recompute", "tied")]
    for first, second in pairs:
        seen = {(getattr(case, first), getattr(case, second)) for case in everyday}
        assert seen >= set(itertools.product(cases.FACTORS[first], cases.FACTORS[second]))
    for schedule in cases.FACTORS["schedule"]:
        assert {2, 3, 4} <= {case.P for case in everyday if case.schedule == schedule}
    assert {case.name for case in everyday} == set(SCHEDULES)


def test_every_schedule_and_value_runs_every_day():
    shown = set().union(*map(cases.shown, [*cases.EVERYDAY_TRAPS.values(), *EVERY_DAY]))
    values = {(name, value) for name, values in cases.FACTORS.items() for value in values}
    assert shown >= values | {("name", name) for name in SCHEDULES}
    assert len(EVERY_DAY) <= 8
