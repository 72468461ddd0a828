"""The shared suite's fixtures: one schedule after the other, with all its plans."""

import pytest

from seq1f1b_jax.schedule import SCHEDULES
from tests.schedule.cases import Case, cases_of


@pytest.fixture(scope="session", params=SCHEDULES)
def cases(request: pytest.FixtureRequest) -> tuple[Case, ...]:
    """All training plans of one schedule."""
    return cases_of(request.param)


@pytest.fixture(scope="session", params=[*SCHEDULES, "forward"])
def all_cases(request: pytest.FixtureRequest) -> tuple[Case, ...]:
    """All plans of one schedule, or those for evaluation."""
    return cases_of(request.param)
