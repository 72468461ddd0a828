"""Files cut into many small portions, on request."""

import pytest


@pytest.fixture
def small_portions(monkeypatch):
    """Cut files every 64 bytes, and look for the place to cut 16 bytes at a time."""
    for name in ("portions.PORTION_BYTES", "run.PORTION_BYTES"):
        monkeypatch.setattr(f"seq1f1b_jax.data.prepare.{name}", 64)
    monkeypatch.setattr("seq1f1b_jax.data.prepare.portions.READ_BYTES", 16)
    monkeypatch.setattr("seq1f1b_jax.data.prepare.partial.SAVED_SECONDS", 0)
