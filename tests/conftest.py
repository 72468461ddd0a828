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

import pytest

from tests.signatures import check_signatures

check_signatures()

CHECKED_IN = {"inference", "models", "ops", "pipeline"}

for number in (signal.SIGINT, signal.SIGHUP):
    # What `nohup` or a shell without job control starts ignores these, and so do its children.
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )


@pytest.fixture(autouse=True, scope="module")
def _checked_where_calls_differ(request: pytest.FixtureRequest) -> Iterator[None]:
    """Signatures are checked where functions and steps are tested, not again in whole runs."""
    from jaxtyping import config

    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", before or not CHECKED_IN & set(request.path.parts))
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
