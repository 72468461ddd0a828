"""Eight virtual CPU devices for every test, set before anything imports JAX; float64 on request.

Machine code is not optimised (level 0 of LLVM, without its expensive passes; the HLO passes are the
same): the tests compile many programs and run each a few times, and compiling takes less than half
of the time.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true"
)

import signal
from collections.abc import Iterator

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell without job control starts its background so, and every child inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def x64() -> Iterator[None]:
    """Run one test with 64-bit types enabled; the setting is undone afterwards."""
    import jax

    with jax.enable_x64(True):
        yield
