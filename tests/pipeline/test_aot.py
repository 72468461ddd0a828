"""The compiler for GPUs that are not there, beside the packages."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from benchmarks.aot import has_aot

SCRIPT = "import jax; print(jax.devices()[0].platform)"


@pytest.mark.skipif(not has_aot() or find_spec("jax_plugins"), reason="lies among the packages")
def test_a_script_of_ones_own_hears_nothing_of_it():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={}, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("cpu\n", "")
