"""Benchmarks that read what they compile."""

import pytest
from jax.stages import Lowered

from tests.compiled import AS_USERS


@pytest.fixture
def as_users(monkeypatch):
    """What a benchmark compiles by itself has the fusions of a user's machine."""
    real = Lowered.compile

    def compiled(lowered, compiler_options=None, **more):
        return real(lowered, AS_USERS | (compiler_options or {}), **more)

    monkeypatch.setattr(Lowered, "compile", compiled)
