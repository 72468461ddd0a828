"""Examples in docstrings run standing alone: with their own imports and nothing else."""

import doctest
import importlib
import pkgutil

import pytest

from seq1f1b_jax import schedule


@pytest.mark.parametrize(
    "name",
    [module.name for module in pkgutil.walk_packages(schedule.__path__, "seq1f1b_jax.schedule.")],
)
def test_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name), globs={}).failed == 0
