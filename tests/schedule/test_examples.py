"""Examples in docstrings run and give what they say."""

import doctest
import importlib
import pkgutil

import pytest

from seq1f1b_jax import schedule
from seq1f1b_jax.schedule import search


@pytest.mark.parametrize(
    "name",
    [module.name for module in pkgutil.walk_packages(schedule.__path__, "seq1f1b_jax.schedule.")],
)
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(name)
    examples = {key: getattr(part, key) for part in (schedule, search) for key in part.__all__}
    assert doctest.testmod(module, extraglobs=examples).failed == 0
