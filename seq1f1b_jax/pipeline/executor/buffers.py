"""The executor's carried state: every in-flight value has a slot, assigned before tracing.

Inside the `shard_map` body shapes are per device. Buffers are written in place by
`dynamic_update_slice` and read by `dynamic_slice`, never selected or branched over.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout as MemoryLayout
from jax.experimental.layout import with_layout_constraint
from jaxtyping import Array, Float, UInt

from seq1f1b_jax.pipeline.stage import Tree


class Gradients(NamedTuple):
    """Accumulators in the accumulation dtype, of the weights that train (`params.trained`).

    `tables` is as in `chunk.Inputs`, without those of which nothing trains.
    Leaves of `layers` are `[stages_per_rank * max_layers, ...]`; unrolled, it is a tuple of trees,
    one for each layer.
    """

    layers: Tree
    first: Tree
    last: Tree
    tables: dict[str, Array]


class Store(NamedTuple):
    """Values of a layer and a unit that wait for a later action; see `store`.

    Attributes:
      device: by name, `[layers, tokens, values_per_token]`, flat.
      host: of the first layers of a stage, in host memory, as bits: all values of a unit in one
        block; `None`: of no layer.
    """

    device: dict[str, Float[Array, "L A n"]]
    host: UInt[Array, "H A n"] | None = None


class Tally(NamedTuple):
    """What routers have said of the sequences in flight, as far as a later chunk needs it.

    Attributes:
      load, probability: of each expert, summed over the tokens of a sequence so far.
    """

    load: Float[Array, "S L B E"]
    probability: Float[Array, "S L B E"]


class State(NamedTuple):
    """What a rank carries from tick to tick.

    Attributes:
      ring: residuals. A unit owns the tokens `[arena_offset, arena_offset + chunk length)`.
      deferred: what an `I` leaves to its `W`, likewise.
      keys, values: the cache, `[max_layers, B, cache_tokens, Hkv, D]`; a unit owns the tokens
        `[cache_pages[chunk], ... + chunk length)`.
      prefix_dk, prefix_dv: gradients of the key/value prefix, in the accumulation dtype,
        `[slots, max_layers, B, prefix, Hkv, D]`; `prefix` is where the last chunk begins (0 for
        one chunk).
      dy: gradient of the loss by the last layer's output, `[loss_tokens, B * d]`, narrower by the
        devices over which tokens of the residual stream are sharded; only the rank of the last
        stage writes it, every rank allocates it.
      grads: accumulators of the parameters' gradients.
      loss: sum of token losses, scalar; in an evaluation the loss of every token, `[M, B, T]`.
      tally: see there; `None` where experts need not be balanced (`balance`).
    """

    ring: Store
    deferred: Store
    keys: Float[Array, "L B A Hkv D"]
    values: Float[Array, "L B A Hkv D"]
    prefix_dk: Float[Array, "S L B prefix Hkv D"]
    prefix_dv: Float[Array, "S L B prefix Hkv D"]
    dy: Float[Array, "A n"]
    grads: Gradients | None
    loss: Float[Array, "*M B T"]
    tally: Tally | None = None


def write(buffer: Array, update: Array, *starts: int | Array) -> Array:
    """Write `update` at `starts`; missing leading dims of the update are of size one.

    The update gets one fixed row-major layout: without it XLA:GPU's layout assignment transposed a
    whole buffer twice per tick.
    """
    update = update.reshape((1,) * (buffer.ndim - update.ndim) + update.shape)
    update = row_major(update.astype(buffer.dtype))
    return lax.dynamic_update_slice(buffer, update, indices(buffer, starts))


def read(buffer: Array, shape: tuple[int, ...], *starts: int | Array) -> Array:
    """Read a block of `shape` at `starts`; leading dims missing in `shape` are dropped.

    The whole buffer is held to the same layout: a loop that only reads it would take its reader's,
    and XLA:GPU transposed ring and cache in front of every such loop.
    """
    sizes = (1,) * (buffer.ndim - len(shape)) + tuple(shape)
    return lax.dynamic_slice(row_major(buffer), indices(buffer, starts), sizes).reshape(shape)


def row_major(value: Array) -> Array:
    """The value, held to a row-major layout."""
    return with_layout_constraint(value, MemoryLayout(major_to_minor=tuple(range(value.ndim))))


def indices(buffer: Array, starts: Sequence[int | Array]) -> list[Array]:
    """Start of a slice in every dim; 0 in those that are not given."""
    starts = (*starts, *(0,) * (buffer.ndim - len(starts)))
    return [jnp.asarray(start, jnp.int32) for start in starts]


def accumulate(total: Tree, update: Tree, index) -> Tree:
    """Add one layer's gradients to the stacked accumulators, in place.

    The sum is held to no layout, unlike what `write` writes: XLA:CPU then adds in the write;
    otherwise it made the sum first and copied it.

    `update` may be `None` for leaves that get none, here and in `add_tree`.
    """

    def add(buffer: Array, delta: Array) -> Array:
        total = _sum(read(buffer, delta.shape, index), delta)
        return lax.dynamic_update_slice(buffer, total[None], indices(buffer, (index,)))

    return _add_leaves(add, total, update)


def add_tree(total: Tree, update: Tree) -> Tree:
    """Sum in the dtype of `total`."""
    return _add_leaves(_sum, total, update)


def _add_leaves(add: Callable, total: Tree, update: Tree) -> Tree:
    return jax.tree.map(lambda t, u: t if u is None else add(t, u), total, update)


def _sum(total: Array, update: Array) -> Array:
    return total + update.astype(total.dtype)
