"""Data and the compilation cache of the tests of whole runs; one finished run of two processes."""

import pytest

from tests.distributed.processes import processes
from tests.run.conftest import _quick_compiler, cache, source  # noqa: F401

TWO = {"mesh__data": 2, "mesh__pipe": 2, "data__microbatch_size": 2}
"""Four devices; with two processes each has one pipeline."""


@pytest.fixture(scope="session")
def by_two(cache, source, tmp_path_factory):  # noqa: F811
    """A run of 6 steps by two processes, checkpoints after 2, 4 and 6; copy it to change it."""
    folder = tmp_path_factory.mktemp("runs") / "by-two"
    with processes(cache, 2, folder, source, **TWO) as run:
        return folder, run.told(0), run.told(1)
