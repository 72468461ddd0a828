"""The backends by name, with the block size that suits the platform."""

from functools import cache, partial

from seq1f1b_jax.ops.attention import blockwise, cudnn, dense
from seq1f1b_jax.ops.attention.contract import AttentionBackend, joined
from seq1f1b_jax.ops.attention.parts import make_backend
from seq1f1b_jax.ops.pairs import block_of

AUTO = "auto"
BACKENDS = ("xla_dense", "xla_blockwise", "cudnn")
NAMES = (AUTO, *BACKENDS)


def get_backend(
    name: str, *, platform: str = "cpu", window: int | None = None
) -> AttentionBackend:
    """The attention backend of that name; nothing is checked (see `choose.choose_backend`).

    Args:
      name: one of `BACKENDS`.
      platform: where the program will run, as in `mesh.devices.flat[0].platform` (right for a mesh
        of devices that are only compiled for, too).
      window: the model's sliding-window size, in keys; `None`: no window.

    Returns:
      The backend.

    Raises:
      ValueError: no such backend; the message lists the names.

    Example:
      >>> get_backend("xla_blockwise").name
      'xla_blockwise'
    """
    if name not in BACKENDS:
        raise ValueError(f"attention={name!r} is not a backend; use one of {', '.join(BACKENDS)}")
    return _backend(name, block_of(platform), window)


@cache
def _backend(name: str, block: int, window: int | None) -> AttentionBackend:
    if name == "cudnn":
        return make_backend(name, cudnn.KERNEL, window=window)
    bound: dict[str, int | None] = {"window": window}
    if name == "xla_dense":
        return joined(name, partial(dense.forward, **bound), partial(dense.backward, **bound))
    bound["block"] = block
    return joined(
        name, partial(blockwise.forward, **bound), partial(blockwise.backward, **bound), block=block
    )
