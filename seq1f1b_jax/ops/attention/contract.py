"""What an attention backend is: two explicit functions of a chunk and its key/value prefix."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from seq1f1b_jax.ops.attention.scoring import PLAIN, Scoring
from seq1f1b_jax.ops.attention.visible import Starts


class Prefix(NamedTuple):
    """Keys and values of the tokens before a chunk, or gradients by them.

    Gradients may be those of the last tokens only, where no query of the chunk sees the others.
    """

    k: Float[Array, "B S Hkv D"]
    v: Float[Array, "B S Hkv Dv"]


class ChunkGradients(NamedTuple):
    """What a backward gives: dq in q's dtype, the others in that or in the accumulation dtype."""

    dq: Float[Array, "B Tq Hq D"]
    dk: Float[Array, "B Tq Hkv D"]
    dv: Float[Array, "B Tq Hkv Dv"]
    prefix: Prefix | None


@dataclass(frozen=True)
class AttentionBackend:
    """One implementation of the contract in the package's docstring.

    Attributes:
      name: key in the registry, as in a configuration file.
      forward: `(q, k, v, prefix, starts=None) -> (out, lse)`.
      backward: `(q, k, v, prefix, out, lse, dout, starts=None) -> ChunkGradients`.
      rescored: the same backend for another `Scoring`; `None`: it has but one. It raises a
        ValueError for what it lacks.
      block: longest side of the score blocks in memory, tokens; `None`: the whole score matrix;
        0: none, scores never reach memory.
      documents: whether it takes `starts`.
      why: why it was chosen, for people to read; empty where it was named.
    """

    name: str
    forward: Callable
    backward: Callable
    rescored: Callable[[Scoring], "AttentionBackend"] | None = None
    block: int | None = None
    documents: bool = True
    why: str = ""

    def because(self, why: str) -> "AttentionBackend":
        """The same backend, with the reason for which it was chosen."""
        return replace(self, why=why)

    def of(self, scoring: Scoring) -> "AttentionBackend":
        """The same backend for layers of this scoring.

        Raises:
          ValueError: it lacks what these layers need.
        """
        if self.rescored is None:
            raise ValueError(
                f"attention {self.name!r} has one scoring for all layers, and these differ; give "
                "AttentionBackend.rescored, or use 'xla_blockwise'"
            )
        return self.rescored(scoring).because(self.why)


def joined(
    name: str, forward: Callable, backward: Callable, *, block: int | None = None,
    scoring: Scoring = PLAIN,
) -> AttentionBackend:
    """A backend of functions that take prefix and chunk as one array.

    Args:
      name: see `AttentionBackend`.
      forward: `(q, k, v, offset, starts, *, scoring) -> (out, lse)`; k and v
        `[B, offset + Tq, Hkv, D]`.
      backward: `(q, k, v, offset, out, lse, dout, starts, *, scoring) -> (dq, dk, dv)`.
      block: see `AttentionBackend`.
      scoring: how scores are made.
    """
    return AttentionBackend(
        name,
        partial(_forward, partial(forward, scoring=scoring)),
        partial(_backward, partial(backward, scoring=scoring)),
        rescored=lambda other: joined(name, forward, backward, block=block, scoring=other),
        block=block,
    )


def _forward(
    function: Callable,
    q: Float[Array, "B Tq Hq D"],
    k: Float[Array, "B Tq Hkv D"],
    v: Float[Array, "B Tq Hkv Dv"],
    prefix: Prefix | None,
    starts: Starts | None = None,
) -> tuple[Float[Array, "B Tq Hq Dv"], Float[Array, "B Hq Tq"]]:
    k, v, offset = _join(k, v, prefix)
    return function(q, k, v, offset, starts)


def _backward(
    function: Callable,
    q: Float[Array, "B Tq Hq D"],
    k: Float[Array, "B Tq Hkv D"],
    v: Float[Array, "B Tq Hkv Dv"],
    prefix: Prefix | None,
    out: Float[Array, "B Tq Hq Dv"],
    lse: Float[Array, "B Hq Tq"],
    dout: Float[Array, "B Tq Hq Dv"],
    starts: Starts | None = None,
) -> ChunkGradients:
    k, v, offset = _join(k, v, prefix)
    dq, dk, dv = function(q, k, v, offset, out, lse, dout, starts)
    before = Prefix(dk[:, :offset], dv[:, :offset]) if offset else None
    return ChunkGradients(dq, dk[:, offset:], dv[:, offset:], before)


def _join(k: Array, v: Array, prefix: Prefix | None) -> tuple[Array, Array, int]:
    if prefix is None:
        return k, v, 0
    pairs = zip(prefix, (k, v), strict=True)
    keys, values = (jnp.concatenate(pair, axis=1) for pair in pairs)
    return keys, values, prefix.k.shape[1]
