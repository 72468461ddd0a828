"""The backends by name, with the block size that suits the platform."""

from functools import cache, partial

from seq1f1b_jax.ops.attention import blockwise, cudnn, dense
from seq1f1b_jax.ops.attention.contract import AttentionBackend, joined
from seq1f1b_jax.ops.attention.parts import make_backend
from seq1f1b_jax.ops.attention.scoring import PLAIN, Scoring
from seq1f1b_jax.ops.pairs import block_of

AUTO = "auto"
BACKENDS = ("xla_dense", "xla_blockwise", "cudnn")
NAMES = (AUTO, *BACKENDS)


def get_backend(
    name: str, *, platform: str = "cpu", scoring: Scoring = PLAIN
) -> AttentionBackend:
    """The attention backend of that name; nothing is checked (see `choose.choose_backend`).

    Args:
      name: one of `BACKENDS`.
      platform: where the program will run, as in `mesh.devices.flat[0].platform` (right for a mesh
        of devices that are only compiled for, too).
      scoring: how scores are made.

    Returns:
      The backend.

    Raises:
      ValueError: no such backend, or one without such scores; the message says what to use.

    Example:
      >>> get_backend("xla_blockwise").name
      'xla_blockwise'
    """
    if name not in BACKENDS:
        raise ValueError(f"attention={name!r} is not a backend; use one of {', '.join(BACKENDS)}")
    return _backend(name, block_of(platform), scoring)


@cache
def _backend(name: str, block: int, scoring: Scoring) -> AttentionBackend:
    if name == "cudnn":
        return make_backend(name, cudnn.KERNEL, scoring=scoring)
    if name == "xla_dense":
        return joined(name, dense.forward, dense.backward, scoring=scoring)
    blocks = {"block": block}
    return joined(
        name, partial(blockwise.forward, **blocks), partial(blockwise.backward, **blocks),
        block=block, scoring=scoring,
    )
