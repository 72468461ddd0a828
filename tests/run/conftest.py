"""Data, a compilation cache and one finished run, shared by the tests of whole runs."""

import random
import shutil

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

# Runs in this process set XLA_FLAGS for their own number of virtual devices; the tests have eight,
# and they stay, since the backend is up before the first run.
jax.devices()

from tests.run.tiny import COMPILER, command_line, compile_quickly, run


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module", autouse=True)
def _quick_compiler(cache):
    names = [*COMPILER, "jax_compilation_cache_dir"]
    before = {name: jax.config.values[name] for name in names}
    compile_quickly(cache)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A text of 200 words in random order, 20 kB."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 8))) for _ in range(200)]
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_text(" ".join(draw.choices(words, k=4000)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def first_run(tmp_path_factory, source):
    """A fresh run, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    return folder, run(*command_line(folder, source, train__sample_tokens=8))


@pytest.fixture
def finished(first_run, tmp_path_factory):
    """A run of 6 steps with the checkpoints of steps 2, 4 and 6; every test has its own copy.

    A run that is started again, complete or refused, says so in its folder.
    """
    folder, outcome = first_run
    assert outcome.status == 0, outcome.err
    return shutil.copytree(folder, tmp_path_factory.mktemp("finished") / folder.name)
