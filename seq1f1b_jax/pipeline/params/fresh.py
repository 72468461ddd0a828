"""The parameters of a fresh model, made where they will be stored: no process makes all of them.

`stage.init` gives the whole model; for each leaf `some_rows` makes a program for a few rows alone.
It runs on the host's CPU, whatever the devices of the mesh: the values depend on the key alone, and
are those of `jax.jit(stage.init)` there, bit by bit. A leaf whose rows depend on each other is made
whole, and freed before the next one.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jaxtyping import PRNGKeyArray

from seq1f1b_jax.pipeline.params.rows import Rows, row_bytes, slices
from seq1f1b_jax.pipeline.params.some_rows import some_rows
from seq1f1b_jax.pipeline.stage import Params, Stage

PIECE_BYTES = 1 << 24
"""Rows of a leaf that are made at one time, beside one that is larger; random bits and counters
take about three times as much while they are made."""


def fresh(stage: Stage, key: PRNGKeyArray) -> Params:
    """`stage.init(key)`, each leaf made when its rows are read.

    Returns:
      `Rows` in the layout that is free of topology, for `PipelineStep.from_canonical`.

    Example:
      >>> import jax
      >>> from seq1f1b_jax.models import build_stage
      >>> from seq1f1b_jax.pipeline.params.fresh import fresh
      >>> params = fresh(build_stage("gpt", preset="tiny"), jax.random.key(0))
      >>> params.embedding.shape, params.embedding[3].shape
      ((64, 32), (32,))
    """
    key = jax.device_put(key, _host())
    traced, shapes = jax.make_jaxpr(stage.init, return_shape=True)(key)
    leaves, structure = jax.tree.flatten(shapes)
    small = _small(leaves)
    run = jaxpr_as_fun(traced)
    together = cache(partial(_on_host, jax.jit(lambda key: [run(key)[at] for at in small]), key))
    made = [
        _from_whole(leaf, lambda at=at: together()[small.index(at)])
        if at in small else _in_rows(traced, at, leaf, key)
        for at, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, made)


def _small(leaves: Sequence[jax.ShapeDtypeStruct]) -> list[int]:
    """The smallest leaves, made together and kept: a program for each would cost more."""
    found, room = [], PIECE_BYTES
    for at in sorted(range(len(leaves)), key=lambda at: leaves[at].size):
        room -= leaves[at].size * leaves[at].dtype.itemsize
        if room >= 0 or not leaves[at].shape:
            found.append(at)
    return found


def _from_whole(
    shape: jax.ShapeDtypeStruct, make: Callable[[], np.ndarray], *, together: int = 0
) -> Rows | np.ndarray:
    if not shape.shape:
        return make()
    return Rows(shape.shape, np.dtype(shape.dtype), lambda: slices(make()), together=together)


def _in_rows(
    traced: ClosedJaxpr, at: int, shape: jax.ShapeDtypeStruct, key: PRNGKeyArray
) -> Rows | np.ndarray:
    num_rows, dtype = shape.shape[0], np.dtype(shape.dtype)
    count = min(num_rows, max(1, PIECE_BYTES // max(row_bytes(shape), 1)))
    make = some_rows(traced, at, count)
    if make is None:
        run = jaxpr_as_fun(traced)
        whole = partial(_on_host, jax.jit(lambda key: run(key)[at]), key)
        return _from_whole(shape, whole, together=num_rows)

    def read(start: int, stop: int) -> np.ndarray:
        rows = np.empty((stop - start, *shape.shape[1:]), dtype)
        for row in range(start, stop, count):
            first = min(row, num_rows - count)  # always as many: one program makes all
            end = min(row + count, stop)
            wanted = slice(row - first, end - first)
            rows[row - start : end - start] = _on_host(make, key, np.int32(first))[wanted]
        return rows

    return Rows(shape.shape, dtype, lambda: read, together=count)


def _on_host(make: Callable, *args: Any) -> Any:
    with jax.default_device(_host()):
        return jax.tree.map(np.asarray, make(*args))


def _host() -> jax.Device:
    return jax.local_devices(backend="cpu")[0]
