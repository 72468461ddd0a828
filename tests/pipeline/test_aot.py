"""The compiler for H100s does not disturb programs on the CPU."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from benchmarks.aot import has_aot

SCRIPT = "import jax; print(jax.devices()[0].platform)"


@pytest.mark.skipif(not has_aot() or find_spec("jax_plugins"), reason="installed as a package")
def test_other_scripts_do_not_see_it():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={}, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("cpu\n", "")
