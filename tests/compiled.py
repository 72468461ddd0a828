"""Programs with the fusions of a user's machine, for tests that read their text or their memory."""

from jax.stages import Compiled, Lowered

from tests.quick_xla import HAS_OLD_EMITTERS

AS_USERS = {"xla_cpu_use_fusion_emitters": True} if HAS_OLD_EMITTERS else {}
"""The other emitters, which tests/conftest.py chooses, are quicker, and are given other fusions."""


def compiled(lowered: Lowered, **options) -> Compiled:
    """The program of a user; `options` are more flags of XLA."""
    return lowered.compile(AS_USERS | options)
