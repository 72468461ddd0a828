"""The plans that the whole suite runs over: every generator on a full small grid."""

from itertools import product
from typing import NamedTuple

import pytest

from seq1f1b_jax.schedule import Plan, forward_plan, make_plan


class Case(NamedTuple):
    """A training plan and the `extra_warmup` that its closed forms go by."""

    plan: Plan
    extra_warmup: int


def _cases(num_stages: int) -> list[Case]:
    cases = []
    for num_microbatches, num_chunks in product(range(1, 6), range(1, 6)):
        sizes = {
            "num_stages": num_stages,
            "num_microbatches": num_microbatches,
            "num_chunks": num_chunks,
        }
        cases.append(Case(make_plan("gpipe", **sizes), num_microbatches * num_chunks))
        names = ("1f1b", "seq1f1b") if num_chunks == 1 else ("seq1f1b",)
        for name, extra_warmup in product(names, range(3)):
            plan = make_plan(name, **sizes, extra_warmup=extra_warmup)
            cases.append(Case(plan, extra_warmup))
    return cases


@pytest.fixture(scope="session", params=range(1, 7), ids="P={}".format)
def cases(request: pytest.FixtureRequest) -> list[Case]:
    """All training plans of one number of stages."""
    return _cases(request.param)


@pytest.fixture(scope="session", params=range(1, 7), ids="P={}".format)
def plans(request: pytest.FixtureRequest) -> list[Plan]:
    """All plans of one number of stages, those for evaluation included."""
    evaluation = [
        forward_plan(num_stages=request.param, num_microbatches=m, num_chunks=c)
        for m, c in product(range(1, 6), range(1, 6))
    ]
    return [case.plan for case in _cases(request.param)] + evaluation
