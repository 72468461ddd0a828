"""Programs whose operations name their source line: what is counted here is counted by it."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def _with_lines():
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 100)  # as JAX does
    yield
    jax.config.update("jax_traceback_in_locations_limit", before)
