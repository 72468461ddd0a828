"""Examples in docstrings run standing alone: with their own imports and nothing else."""

import doctest
import importlib
import pkgutil

import pytest

from seq1f1b_jax import picture

NAMES = [
    "seq1f1b_jax.picture",
    *(module.name for module in pkgutil.walk_packages(picture.__path__, "seq1f1b_jax.picture.")),
]


@pytest.mark.parametrize("name", NAMES)
def test_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name), globs={}).failed == 0
