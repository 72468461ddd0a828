"""Causal attention of a chunk over its key/value prefix, behind one contract.

A backend is two explicit functions; nothing differentiates through them:

    forward(q, k, v, offset, starts=None)                      -> (out, lse)
    backward(q, k, v, offset, out, lse, dout, starts=None)     -> (dq, dk, dv)

q `[B, Tq, Hq, D]` are the queries of positions `offset ... offset+Tq-1`, k and v
`[B, offset+Tq, Hkv, D]` the keys and values of all positions so far; `offset` is a Python int.
Query i sees keys `0 ... offset+i`. Where sequences hold documents, starts int32 `[B, Tq]` is the
position of the first token of each query's document, and the query sees keys `starts[i] ...
offset+i`; the model's window, where it has one, is bound into the functions (`visible.py`). Scores
are scaled by `1/sqrt(D)`. Query head h reads key/value head `h // (Hq/Hkv)`. lse `[B, Hq, Tq]` is
the natural logarithm of the softmax denominator. out and dq have q's dtype; lse, dk, dv have the
accumulation dtype promote(float32, q's dtype), because the
gradients of a prefix are summed over chunks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from seq1f1b_jax.ops.attention import blockwise, dense

BLOCK_CPU = blockwise.BLOCK
BLOCK_ACCELERATOR = 1024
"""A loop step costs several kernel launches there; chosen by arithmetic, not yet measured."""


@dataclass(frozen=True)
class AttentionBackend:
    """One implementation of the contract above.

    Attributes:
      name: key in the registry, as in a configuration file.
      forward: `(q, k, v, offset, starts=None) -> (out, lse)`.
      backward: `(q, k, v, offset, out, lse, dout, starts=None) -> (dq, dk, dv)`.
      block: longest side of the score blocks in memory, tokens; `None`: the whole score matrix.
    """

    name: str
    forward: Callable
    backward: Callable
    block: int | None = None


@cache
def _backend(name: str, block: int, window: int | None) -> AttentionBackend:
    if name == "xla_dense":
        bound = {"window": window}
        return AttentionBackend(
            name, partial(dense.forward, **bound), partial(dense.backward, **bound)
        )
    bound = {"block": block, "window": window}
    return AttentionBackend(
        name, partial(blockwise.forward, **bound), partial(blockwise.backward, **bound), block
    )


NAMES = ("xla_dense", "xla_blockwise")


def get_backend(
    name: str, *, platform: str = "cpu", window: int | None = None
) -> AttentionBackend:
    """The attention backend of that name, with the block size that suits the platform.

    Args:
      name: one of `NAMES`.
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
    if name not in NAMES:
        raise ValueError(f"attention={name!r} is not a backend; use one of {', '.join(NAMES)}")
    return _backend(name, BLOCK_CPU if platform == "cpu" else BLOCK_ACCELERATOR, window)
