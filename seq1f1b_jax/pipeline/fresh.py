"""The parameters of a fresh model, made where they are going to lie: no process makes all of them.

`stage.init` gives the whole model; of each leaf `some_rows` makes a program for a few rows alone.
It runs on the host's CPU, whatever the mesh is of: the values depend on the key alone, and they are
those of `jax.jit(stage.init)` there, bit by bit. A leaf whose rows depend on each other is made
whole, and let go before the next one.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr
from jaxtyping import PRNGKeyArray

from seq1f1b_jax.pipeline.rows import Rows, slices
from seq1f1b_jax.pipeline.some_rows import some_rows
from seq1f1b_jax.pipeline.stage import Params, Stage

PIECE_BYTES = 1 << 24
"""Rows of a leaf that are made at one time, beside one that is larger; random bits and counters
take about three times as much while they are made."""


def fresh(stage: Stage, key: PRNGKeyArray) -> Params:
    """`stage.init(key)`, each leaf made when its rows are asked for.

    Returns:
      `Rows` in the layout that is free of topology, for `PipelineStep.from_canonical`.

    Example:
      >>> from models import build_stage
      >>> params = fresh(build_stage("gpt", preset="tiny"), jax.random.key(0))
      >>> params.embedding.shape, params.embedding[3].shape
      ((64, 32), (32,))
    """
    key = jax.device_put(key, _host())
    traced, shapes = jax.make_jaxpr(stage.init, return_shape=True)(key)
    leaves, structure = jax.tree.flatten(shapes)
    made = [_leaf(traced, at, leaf, key) for at, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, made)


def _leaf(
    traced: ClosedJaxpr, at: int, shape: jax.ShapeDtypeStruct, key: PRNGKeyArray
) -> Rows | np.ndarray:
    dtype = np.dtype(shape.dtype)
    if not shape.shape:
        return _on_host(some_rows(traced, at, None), key)
    num_rows, row_bytes = shape.shape[0], prod(shape.shape[1:]) * dtype.itemsize
    count = min(num_rows, max(1, PIECE_BYTES // max(row_bytes, 1)))
    make = some_rows(traced, at, count)
    if make is None:
        whole = some_rows(traced, at, None)
        return Rows(
            shape.shape, dtype, lambda: slices(_on_host(whole, key)), together=num_rows
        )

    def read(start: int, stop: int) -> np.ndarray:
        rows = np.empty((stop - start, *shape.shape[1:]), dtype)
        for place in range(start, stop, count):
            first = min(place, num_rows - count)  # always as many: one program makes all
            end = min(place + count, stop)
            rows[place - start : end - start] = _on_host(make, key, np.int32(first))[
                place - first : end - first
            ]
        return rows

    return Rows(shape.shape, dtype, lambda: read, together=count)


def _on_host(make: Callable, *args: Any) -> np.ndarray:
    with jax.default_device(_host()):
        return np.asarray(make(*args))


def _host() -> jax.Device:
    return jax.local_devices(backend="cpu")[0]
