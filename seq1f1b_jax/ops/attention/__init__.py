"""Causal attention of a chunk over its key/value prefix, behind one contract.

A backend is two explicit functions; nothing differentiates through them:

    forward(q, k, v, offset)                      -> (out, lse)
    backward(q, k, v, offset, out, lse, dout)     -> (dq, dk, dv)

q `[B, Tq, Hq, D]` are the queries of positions `offset ... offset+Tq-1`, k and v
`[B, offset+Tq, Hkv, D]` the keys and values of all positions so far; `offset` is a Python int.
Query i sees keys `0 ... offset+i`; scores are scaled by `1/sqrt(D)`. Query head h reads key/value
head `h // (Hq/Hkv)`. lse `[B, Hq, Tq]` is the natural logarithm of the softmax denominator. out and
dq have q's dtype; lse, dk, dv have the accumulation dtype promote(float32, q's dtype), because the
gradients of a prefix are summed over chunks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from seq1f1b_jax.ops.attention import blockwise, dense

BLOCK_CPU = blockwise.BLOCK
BLOCK_ACCELERATOR = 1024
"""A loop step costs several kernel launches there; chosen by arithmetic, not yet measured."""


@dataclass(frozen=True)
class AttentionBackend:
    """One implementation of the contract above.

    Attributes:
      name: key in the registry, as in a configuration file.
      forward: `(q, k, v, offset) -> (out, lse)`.
      backward: `(q, k, v, offset, out, lse, dout) -> (dq, dk, dv)`.
      block: longest side of the score blocks in memory, tokens; `None`: the whole score matrix.
    """

    name: str
    forward: Callable
    backward: Callable
    block: int | None = None


def _backends(block: int) -> MappingProxyType[str, AttentionBackend]:
    backends = (
        AttentionBackend("xla_dense", dense.forward, dense.backward),
        AttentionBackend(
            "xla_blockwise",
            partial(blockwise.forward, block=block),
            partial(blockwise.backward, block=block),
            block,
        ),
    )
    return MappingProxyType({backend.name: backend for backend in backends})


_ON_CPU, _ON_ACCELERATOR = _backends(BLOCK_CPU), _backends(BLOCK_ACCELERATOR)
NAMES = tuple(_ON_CPU)


def get_backend(name: str, *, platform: str = "cpu") -> AttentionBackend:
    """The attention backend of that name, with the block size that suits the platform.

    Args:
      name: one of `NAMES`.
      platform: where the program will run, as in `mesh.devices.flat[0].platform` (right for a mesh
        of devices that are only compiled for, too).

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
    return (_ON_CPU if platform == "cpu" else _ON_ACCELERATOR)[name]
