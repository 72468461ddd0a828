"""Values of a layer and a unit that wait for a later action: on the device, or in host memory.

The first layers of a stage may keep theirs in the host's pinned memory (`ExecutorOptions.offload`).
They are the first of a forward and the last of a backward: while the layers on the device run, the
last copies of the one finish and the first of the other begin (`over_layers`).

All that a layer leaves goes in one copy: XLA:GPU keeps two of them in flight, and what it has no
room for, it waits for.
"""

from collections.abc import Iterable, Mapping
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from seq1f1b_jax.pipeline.executor import buffers
from seq1f1b_jax.pipeline.executor.buffers import Store
from seq1f1b_jax.pipeline.executor.layers.residuals import ArenaEntry


class Place(NamedTuple):
    """Where a unit's values of one layer are.

    Attributes:
      on_host: whether in host memory.
      row: of the layer among those that are there.
      offset: first token.
      tokens: of the unit's chunk.
    """

    on_host: bool
    row: int | Array
    offset: Array
    tokens: int


def store_shapes(
    entries: Iterable[ArenaEntry],
    *,
    chunk_length: int,
    tokens: int,
    num_layers: int,
    num_host_layers: int,
) -> Store:
    """Shapes of a store.

    Args:
      entries: of one chunk.
      chunk_length: its tokens.
      tokens: room for the units of a layer.
      num_layers: of a stage.
      num_host_layers: of them, the first ones, whose values are in host memory.
    """
    entries, rows = tuple(entries), num_layers - num_host_layers
    device = {
        e.name: jax.ShapeDtypeStruct((rows, tokens, values_per_token(e, chunk_length)), e.dtype)
        for e in entries
        if rows
    }
    if not entries or not num_host_layers:
        return Store(device)
    words = sum(map(partial(_words_per_token, entries, chunk_length), entries))
    return Store(
        device, jax.ShapeDtypeStruct((num_host_layers, tokens, words), _word(entries))
    )


def write_values(
    store: Store, entries: Mapping[str, ArenaEntry], values: Mapping[str, Array], place: Place
) -> Store:
    """Write the values of one layer; those that are no entry are left out."""
    if not entries:
        return store
    if place.on_host:
        return store._replace(host=_write_host(store.host, entries, values, place))
    written = {
        name: _write(store.device[name], entry, values[name], place)
        for name, entry in entries.items()
    }
    return store._replace(device=store.device | written)


def fetch_values(
    store: Store, entries: Mapping[str, ArenaEntry], place: Place
) -> dict[str, Array] | Array:
    """What `write_values` wrote, on the device; see `open_values`."""
    if entries and place.on_host:
        starts = buffers.indices(store.host, (place.row, place.offset))
        block = lax.dynamic_slice(store.host, starts, (1, place.tokens, store.host.shape[2]))
        return jax.device_put(block, jax.memory.Space.Device)
    return {name: _read(store.device[name], entry, place) for name, entry in entries.items()}


def open_values(
    entries: Mapping[str, ArenaEntry], fetched: dict[str, Array] | Array
) -> dict[str, Array]:
    """The values in what was fetched, by name and in their shapes.

    Apart from the fetch, since what reads a copy makes the program wait for it.
    """
    if isinstance(fetched, dict):
        return fetched
    kinds, tokens, words = tuple(entries.values()), fetched.shape[1], fetched.ravel()
    sizes = [tokens * _words_per_token(kinds, tokens, e) for e in kinds]
    firsts = accumulate(sizes, initial=0)
    return {
        e.name: _from_words(words[first : first + size], e)
        for e, first, size in zip(kinds, firsts, sizes, strict=False)
    }


def to_host(value: Array) -> Array:
    """The value in pinned host memory; where host and device share one memory, it stays."""
    return jax.device_put(value, jax.memory.Space.Host)


def values_per_token(entry: ArenaEntry, tokens: int) -> int:
    """Numbers per token of an entry of a chunk of `tokens`, rounded up.

    Where tokens of the residual stream are sharded over devices, one per token is less than one.
    """
    return -(-entry.size // tokens)


def _write(buffer: Array, entry: ArenaEntry, value: Array, place: Place) -> Array:
    block = _padded(value.ravel(), place.tokens * values_per_token(entry, place.tokens))
    return buffers.write(buffer, block.reshape(place.tokens, -1), place.row, place.offset)


def _read(buffer: Array, entry: ArenaEntry, place: Place) -> Array:
    shape = (place.tokens, values_per_token(entry, place.tokens))
    block = buffers.read(buffer, shape, place.row, place.offset)
    return block.ravel()[: entry.size].reshape(entry.shape)


def _write_host(
    host: Array, entries: Mapping[str, ArenaEntry], values: Mapping[str, Array], place: Place
) -> Array:
    kinds = tuple(entries.values())
    # XLA:GPU tried to fuse the matmul that makes a value with what follows, and failed to compile
    values = lax.optimization_barrier({e.name: values[e.name] for e in kinds})
    blocks = [
        _padded(
            _to_words(values[e.name], e, host.dtype),
            place.tokens * _words_per_token(kinds, place.tokens, e),
        )
        for e in kinds
    ]
    block = jnp.concatenate(blocks).reshape(1, place.tokens, -1)
    starts = buffers.indices(host, (place.row, place.offset))
    return lax.dynamic_update_slice(host, to_host(buffers.row_major(block)), starts)


def _word(entries: Iterable[ArenaEntry]) -> jnp.dtype:
    """The unsigned integer as wide as the narrowest entry."""
    return jnp.dtype(f"uint{8 * min(e.dtype.itemsize for e in entries)}")


def _words_per_token(entries: Iterable[ArenaEntry], tokens: int, entry: ArenaEntry) -> int:
    return values_per_token(entry, tokens) * (entry.dtype.itemsize // _word(entries).itemsize)


def _to_words(value: Array, entry: ArenaEntry, word: jnp.dtype) -> Array:
    value = value.astype(entry.dtype)
    value = value.astype(word) if entry.dtype == jnp.bool_ else value
    return lax.bitcast_convert_type(value, word).ravel()


def _from_words(words: Array, entry: ArenaEntry) -> Array:
    if entry.dtype == jnp.bool_:
        return words[: entry.size].astype(jnp.bool_).reshape(entry.shape)
    ratio = entry.dtype.itemsize // words.dtype.itemsize
    words = words[: entry.size * ratio].reshape(*entry.shape, *[ratio] * (ratio > 1))
    return lax.bitcast_convert_type(words, entry.dtype)


def _padded(values: Array, size: int) -> Array:
    return jnp.pad(values, (0, size - values.size))
