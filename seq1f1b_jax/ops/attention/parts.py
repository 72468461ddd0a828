"""A chunk's attention from calls of a kernel whose only mask is the top-left causal one.

Such a kernel (cuDNN's) cannot see a chunk behind a prefix in one call: its causal mask is a square
at the first key. A chunk's scores are cut into parts that it can see:

    keys      | far . . . . . . | near . . . . . | own . . . |
    query 0   | x x x x x x x x | x x x x x x x  | x         |     own   causal
    query 1   |   x x x x x x x | x x x x x x x  | x x       |     near  no mask
    query 2   |     x x x x x x | x x x x x x x  | x x x     |     far   causal, in reversed order
                                                                         of queries and keys

Without a window there is no `far`: the prefix is `near`. A window narrower than the chunk bends the
own part too, which the kernel's own window does.

The parts are merged by their log-sum-exp in float32. In the backward every part is called with the
*merged* out and lse, which makes its probabilities those of the whole softmax: the gradients are
exact, and add up.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from seq1f1b_jax.ops.attention.contract import AttentionBackend, ChunkGradients, Prefix
from seq1f1b_jax.ops.attention.scoring import PLAIN, Scoring
from seq1f1b_jax.ops.attention.visible import Starts
from seq1f1b_jax.ops.precision import accumulation_dtype


class Kernel(NamedTuple):
    """Attention of `Tq` queries over `S` keys; products are scaled by `scale`.

    Attributes:
      forward: `(q, k, v, *, scale, causal, window) -> (out, lse)`; query i sees keys `0 ... i`
        where causal, and of these the last `window`, where that is not `None`.
      backward: `(q, k, v, out, lse, dout, *, scale, causal, window) -> (dq, dk, dv)`, for any out
        and lse.
    """

    forward: Callable
    backward: Callable


class Part(NamedTuple):
    """One call: which keys of the prefix (`None`: the chunk's own), which queries, which mask."""

    keys: slice | None
    queries: slice
    causal: bool
    window: int | None
    reverse: bool


def make_backend(name: str, kernel: Kernel, *, scoring: Scoring = PLAIN) -> AttentionBackend:
    """The contract of `ops.attention` from a kernel of that kind.

    Args:
      name: of the backend.
      kernel: the calls.
      scoring: how scores are made.

    Raises:
      ValueError: the kernel has no such scores.
    """
    if scoring.bends:
        raise ValueError(
            f"attention={name!r} has no {scoring.bent_by}, which this model needs; use "
            "'xla_blockwise', or 'auto', which does so by itself"
        )
    bound = {"kernel": kernel, "scoring": scoring}
    return AttentionBackend(
        name, partial(forward, **bound), partial(backward, **bound),
        rescored=lambda other: make_backend(name, kernel, scoring=other),
        block=0, documents=False,
    )


def parts_of(num_tokens: int, offset: int, window: int | None) -> Iterator[Part]:
    """The calls for a chunk of `num_tokens` behind `offset` tokens, the own part first.

    Example:
      >>> [part.keys for part in parts_of(4, 12, None)]
      [None, slice(0, 12, None)]
      >>> [(part.keys, part.queries) for part in parts_of(4, 12, 3)][1]
      (slice(10, 12, None), slice(0, 2, None))
    """
    if window is not None and window >= offset + num_tokens:
        window = None
    every = slice(0, num_tokens)
    bent = window if window is not None and window < num_tokens else None
    yield Part(None, every, causal=True, window=bent, reverse=False)
    if not offset or window == 1:
        return
    if window is None:
        yield Part(slice(0, offset), every, causal=False, window=None, reverse=False)
        return
    # key j of the prefix is visible to queries 0 ... j + window - 1 - offset
    far = slice(max(0, offset - window + 1), min(offset, offset + num_tokens - window + 1))
    if far.stop < offset:
        yield Part(slice(far.stop, offset), every, causal=False, window=None, reverse=False)
    near = slice(0, min(num_tokens, window - 1))
    yield Part(far, near, causal=True, window=None, reverse=True)


def forward(
    q: Float[Array, "B Tq Hq D"],
    k: Float[Array, "B Tq Hkv D"],
    v: Float[Array, "B Tq Hkv Dv"],
    prefix: Prefix | None,
    starts: Starts | None = None,
    *,
    kernel: Kernel,
    scoring: Scoring = PLAIN,
) -> tuple[Float[Array, "B Tq Hq Dv"], Float[Array, "B Hq Tq"]]:
    """Attention of a chunk over its prefix and itself; the contract is in the package's docstring.

    Raises:
      ValueError: `starts`, which no part can see.
    """
    _refuse(starts)
    done, scale = None, scoring.scale_of(q.shape[-1])
    for part in parts_of(q.shape[1], _offset(prefix), scoring.window):
        keys, values = _keys(part, k, v, prefix)
        out, lse = kernel.forward(
            _order(part, q[:, part.queries]), keys, values, scale=scale, causal=part.causal,
            window=part.window,
        )
        found = _order(part, out), _order(part, lse, dim=2)
        done = found if done is None else _merge(done, found)
    assert done is not None  # the own part is always there
    return done[0].astype(q.dtype), done[1]


def backward(
    q: Float[Array, "B Tq Hq D"],
    k: Float[Array, "B Tq Hkv D"],
    v: Float[Array, "B Tq Hkv Dv"],
    prefix: Prefix | None,
    out: Float[Array, "B Tq Hq Dv"],
    lse: Float[Array, "B Hq Tq"],
    dout: Float[Array, "B Tq Hq Dv"],
    starts: Starts | None = None,
    *,
    kernel: Kernel,
    scoring: Scoring = PLAIN,
) -> ChunkGradients:
    """Gradients of `forward`'s out.

    Those of the prefix are of its last tokens only, where the window hides the others.

    Raises:
      ValueError: `starts`, which no part can see.
    """
    _refuse(starts)
    dtype, dq, own, before = accumulation_dtype(q.dtype), None, None, []
    for part in parts_of(q.shape[1], _offset(prefix), scoring.window):
        keys, values = _keys(part, k, v, prefix)
        queries = (_order(part, x[:, part.queries]) for x in (q, out, dout))
        q_part, out_part, dout_part = queries
        lse_part = _order(part, lse[:, :, part.queries], dim=2)
        dq_part, *grads = kernel.backward(
            q_part, keys, values, out_part, lse_part, dout_part,
            scale=scoring.scale_of(q.shape[-1]), causal=part.causal, window=part.window,
        )
        dq_part = _order(part, dq_part)
        dq = dq_part if dq is None else _add_front(dq.astype(dtype), dq_part)
        if part.keys is None:
            own = grads
        else:
            before.append((part.keys.start, [_order(part, grad) for grad in grads]))
    assert dq is not None and own is not None  # the own part is always there
    before = [grads for _, grads in sorted(before, key=lambda found: found[0])]
    pieces = [jnp.concatenate(grads, axis=1) for grads in zip(*before, strict=True)]
    if prefix is not None and not pieces:  # a window of one key
        pieces = [x[:, :0] for x in prefix]
    return ChunkGradients(dq.astype(q.dtype), *own, Prefix(*pieces) if pieces else None)


def _refuse(starts: Starts | None) -> None:
    if starts is not None:
        raise ValueError(
            "this attention has no mask for documents, and the batch has `starts`; use "
            "attention='xla_blockwise', or 'auto', which does so by itself"
        )


def _offset(prefix: Prefix | None) -> int:
    return 0 if prefix is None else prefix.k.shape[1]


def _keys(part: Part, k: Array, v: Array, prefix: Prefix | None) -> tuple[Array, Array]:
    if part.keys is None or prefix is None:
        return k, v
    keys, values = (_order(part, x[:, part.keys]) for x in prefix)
    return keys, values


def _order(part: Part, x: Array, *, dim: int = 1) -> Array:
    """Into the order that the part's mask wants, and back."""
    return jnp.flip(x, dim) if part.reverse else x


def _merge(done: tuple[Array, Array], found: tuple[Array, Array]) -> tuple[Array, Array]:
    """Softmax over the keys of both; `found` may be of the first queries only."""
    (out, lse), (more, more_lse) = done, found
    rows = more.shape[1]
    total = jnp.logaddexp(lse[:, :, :rows], more_lse)
    kept, added = (
        jnp.exp(x - total).transpose(0, 2, 1)[..., None] for x in (lse[:, :, :rows], more_lse)
    )
    out = out.astype(total.dtype)
    merged = kept * out[:, :rows] + added * more.astype(total.dtype)
    if rows < out.shape[1]:
        merged = jnp.concatenate([merged, out[:, rows:]], axis=1)
        total = jnp.concatenate([total, lse[:, :, rows:]], axis=2)
    return merged, total


def _add_front(total: Array, update: Array) -> Array:
    """Add gradients of the first queries."""
    rows = update.shape[1]
    if rows == total.shape[1]:
        return total + update
    return jnp.concatenate([total[:, :rows] + update, total[:, rows:]], axis=1)
