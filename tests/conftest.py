"""Eight virtual CPU devices for every test, set before anything imports JAX; float64 on request.

Machine code is made quickly (`tests.quick_xla`): the tests compile many programs and run each a few
times, and compiling takes a third of the time. A test that reads a program compiles it by
`tests.compiled`, as a user's machine does.
"""

import os

from tests.quick_xla import QUICK_FLAGS

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {QUICK_FLAGS}"

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.signatures import check_signatures

check_signatures()

TESTS = Path(__file__).parent
UNCHECKED = {"plan", "run"}
"""Folders whose tests only trace, or train, what others have called with every shape."""

for number in (signal.SIGINT, signal.SIGHUP):
    # What `nohup` or a shell without job control starts ignores these, and so do its children.
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )


@pytest.fixture(autouse=True, scope="module")
def _signatures_checked_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Not again in whole runs; checks are a third of the time of a test that only traces."""
    from jaxtyping import config

    before = config.jaxtyping_disable
    folder = request.path.relative_to(TESTS).parts[0]
    config.update("jaxtyping_disable", before or folder in UNCHECKED)
    yield
    config.update("jaxtyping_disable", before)


@pytest.fixture(autouse=True, scope="session")
def _without_lines() -> None:
    """No operation of a program names its source line: a seventh less to compile."""
    import jax

    jax.config.update("jax_traceback_in_locations_limit", 0)


@pytest.fixture
def own_schedules() -> Iterator[None]:
    """Schedules that a test registers are forgotten after it."""
    from seq1f1b_jax.schedule import registry

    before = dict(registry.SCHEDULES)
    yield
    for name in registry.SCHEDULES.keys() - before:
        del registry._schedules[name]


@pytest.fixture
def x64() -> Iterator[None]:
    """Run one test with 64-bit types enabled; the setting is undone afterwards."""
    import jax

    with jax.enable_x64(True):
        yield
