"""Arrays of a checkpoint in parts, as Orbax writes them: layer by layer, read by TensorStore.

Orbax reads whole arrays, or the shards of a sharding that its arrays must be divisible by. What a
process needs of a checkpoint that another mesh wrote is neither, so it is read from the store
underneath.
"""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import tensorstore as ts
from orbax.checkpoint import v1 as ocp

from seq1f1b_jax.pipeline.params.layout import Kind

STACK = (0, 1)
"""The dims of a stacked leaf that count ranks, and the layers of each."""


def by_layer(kinds: Mapping[str, Kind]) -> ocp.Context:
    """How a checkpoint is written: every layer in its own chunk, so that it can be read alone.

    Args:
      kinds: of arrays by name.
    """
    options = ocp.options.ArrayOptions.Saving.StorageOptions

    def choose(key: Any, value: Any) -> Any:
        return options(shard_axes=STACK) if kinds.get(key[-1].key) == "layer" else None

    context = ocp.Context()
    context.array.saving.scoped_storage_options_creator = choose
    return context


def open_array(folder: Path, name: str) -> ts.TensorStore:
    """An array of the folder that Orbax wrote, by its name; nothing of it is read.

    Where rows share a chunk, the chunk that was read last is kept for the next ones.
    """
    store = _open(folder, name, kept_bytes=0)
    chunk = store.chunk_layout.read_chunk.shape or ()
    if prod(chunk[: len(STACK)]) <= 1:
        return store
    return _open(folder, name, kept_bytes=prod(chunk) * store.dtype.numpy_dtype.itemsize)


def _open(folder: Path, name: str, *, kept_bytes: int) -> ts.TensorStore:
    [index] = folder.glob("*/manifest.ocdbt")  # one folder further down, named by Orbax
    base = {"driver": "file", "path": f"{index.parent.resolve()}/"}  # which takes no ..
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"},
        "recheck_cached_data": False,
        "recheck_cached_metadata": False,
        "fill_missing_data_reads": False,
        "context": {"cache_pool": {"total_bytes_limit": kept_bytes}},
    }
    return ts.open(spec, read=True).result()
