"""Leaves some rows at a time: from the layout that is free of topology to that in memory, and back.

A model may be larger than what one host can hold, so neither side is ever whole. A row is a layer
of a stacked leaf or an entry of a table; `Layout.runs` gives its position in memory.
`put_tree` reads from topology-free leaves the rows of this process's shards; `unstacked` is a
topology-free leaf that reads an in-memory one. Weights that are made or read from a file come as a
tree of `Rows`; arrays will do too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import jax
import numpy as np
from jax import lax

from seq1f1b_jax.pipeline.params.layout import Kind, Layout, staged_shape
from seq1f1b_jax.pipeline.stage import Tree

Reader = Callable[[int, int], np.ndarray]
"""`(start, stop)` -> rows `start ... stop - 1` of a topology-free leaf, `[stop - start, ...]`."""

Take = Callable[[int, int, int], np.ndarray]
"""`(rank, first, last)` -> `leaf[rank, first:last]` of an in-memory leaf."""

BLOCK_BYTES = 1 << 24
"""Rows that are read at one time; at least one row is."""

ALIGNMENT = 64
"""Of an array that a CPU device takes over without a copy, in bytes."""


@dataclass(frozen=True, eq=False)
class Rows:
    """A topology-free leaf whose rows are made or read on demand.

    Attributes:
      shape: of the whole leaf, at least one dim.
      dtype: its type.
      open: returns a reader of rows, which owns what is kept for reading.
      together: rows that are made at a time, whichever are wanted.

    Example:
      >>> import numpy as np
      >>> from seq1f1b_jax.pipeline.params.rows import Rows
      >>> rows = Rows((3, 2), np.dtype("float32"), lambda: lambda a, b: np.ones((b - a, 2)))
      >>> rows[2], np.asarray(rows).shape
      (array([1., 1.]), (3, 2))
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    open: Callable[[], Reader]
    together: int = 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.open()(row, row + 1)[0]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        read, whole = self.open(), np.empty(self.shape, self.dtype)
        for start, stop in blocks(0, len(whole), row_bytes(self)):
            whole[start:stop] = read(start, stop)
        return whole if dtype is None else whole.astype(dtype)


def opened(leaf: Any) -> Reader:
    """What reads the rows of a leaf, `Rows` or an array."""
    return leaf.open() if isinstance(leaf, Rows) else slices(np.asarray(leaf))


def slices(array: np.ndarray, dtype: Any = None) -> Reader:
    """Rows of an array that is there, in a given type."""
    return lambda start, stop: np.asarray(array[start:stop], dtype)


def blocks(start: int, stop: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """The rows `start ... stop - 1` in runs of at most `BLOCK_BYTES`, or of one row."""
    size = max(1, BLOCK_BYTES // max(row_bytes, 1))
    for first in range(start, stop, size):
        yield first, min(first + size, stop)


def row_bytes(leaf: Any) -> int:
    """Bytes of one row."""
    return prod(leaf.shape[1:]) * leaf.dtype.itemsize


def put_tree(tree: Tree, shardings: Tree, layout: Layout) -> Tree:
    """Topology-free leaves on the mesh, in the in-memory layout.

    What needs most memory beside its result comes first, while there is little else.

    Args:
      tree: of `Rows` or arrays.
      shardings: of every in-memory leaf.
      layout: which row lives where.
    """
    leaves, structure = jax.tree.flatten_with_path(tree)
    put_leaves: list[Any] = [None] * len(leaves)
    wanted = structure.flatten_up_to(shardings)
    for at in sorted(range(len(leaves)), key=lambda at: -_beside(leaves[at][1])):
        path, leaf = leaves[at]
        kind = layout.kind_of(path)
        shape, share = staged_shape(leaf.shape, kind, layout), shares(leaf, kind, layout)
        put_leaves[at] = jax.make_array_from_callback(shape, wanted[at], share)
    return jax.tree.unflatten(structure, put_leaves)


def _beside(leaf: Any) -> int:
    return leaf.together * row_bytes(leaf) if isinstance(leaf, Rows) else 0


def shares(
    leaf: Any, kind: Kind, layout: Layout
) -> Callable[[tuple[slice, ...]], np.ndarray]:
    """A function from an index of the in-memory leaf to that part; padding is zero."""
    shape, read = staged_shape(leaf.shape, kind, layout), opened(leaf)
    runs, dtype = tuple(layout.runs(kind, *leaf.shape[:1])), np.dtype(leaf.dtype)

    def staged(index: tuple[slice, ...]) -> np.ndarray:
        spans = [range(*part.indices(size)) for part, size in zip(index, shape, strict=True)]
        part = zeros(tuple(map(len, spans)), dtype)
        ranks, positions, *_ = spans
        for run in runs:
            if run.rank not in ranks:
                continue
            shift = run.start - run.position
            end = run.position + run.count
            first, last = max(run.position, positions.start), min(end, positions.stop)
            for a, b in blocks(first, last, prod(shape[2:]) * dtype.itemsize):
                there = part[run.rank - ranks.start, a - positions.start : b - positions.start]
                there[:] = read(a + shift, b + shift)[(slice(None), *index[2:])]
        return part

    def small(index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[0].indices(shape[0])
        return read(start, stop)[(slice(None), *index[1:])]

    if not shape:
        return lambda index: np.asarray(leaf)
    return small if kind is None else staged


def zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros that a device of the host may keep as they are, and need not copy."""
    room = np.zeros(prod(shape) * dtype.itemsize + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


def unstacked(
    shape: Sequence[int], dtype: Any, kind: Kind, layout: Layout, open: Callable[[], Take]
) -> Rows:
    """The topology-free leaf of an in-memory one.

    Args:
      shape: of the topology-free leaf.
      dtype: its type.
      kind: stacked by layers, or a table.
      layout: which row lives where.
      open: gives what reads the in-memory leaf.
    """

    def reader() -> Reader:
        take = open()

        def read(start: int, stop: int) -> np.ndarray:
            parts = []
            for run in layout.runs(kind, shape[0]):
                first, last = max(start, run.start), min(stop, run.start + run.count)
                if first < last:
                    shift = run.position - run.start
                    parts.append(take(run.rank, first + shift, last + shift))
            return parts[0] if len(parts) == 1 else np.concatenate(parts)

        return read

    return Rows(tuple(shape), np.dtype(dtype), reader)


def to_pipeline(tree: Tree, layout: Layout) -> Tree:
    """Topology-free leaves (`[num_layers, ...]`, `[vocab_size, d]`) to the stack, in NumPy."""

    def stack(path, leaf):
        kind = layout.kind_of(path)
        num_dims = len(staged_shape(leaf.shape, kind, layout))
        return shares(leaf, kind, layout)((slice(None),) * num_dims)

    return jax.tree.map_with_path(stack, tree)


def from_pipeline(tree: Tree, layout: Layout) -> Tree:
    """The inverse of `to_pipeline`, also of arrays on a mesh; padding is dropped.

    Raises:
      ValueError: parts of an array are in other processes only.
    """
    return jax.tree.map(np.asarray, canonical_rows(tree, layout))


def canonical_rows(tree: Tree, layout: Layout) -> Tree:
    """The topology-free leaves of an in-memory tree, read on demand."""

    def rows(path, leaf):
        kind = layout.kind_of(path)
        if kind is None:
            return np.asarray(leaf)
        shape = (layout.num_rows(path), *leaf.shape[2:])
        return unstacked(shape, leaf.dtype, kind, layout, lambda: partial(_take, leaf))

    return jax.tree.map_with_path(rows, tree)


def _take(leaf: Any, rank: int, first: int, last: int) -> np.ndarray:
    """`leaf[rank, first:last]`, of an array on a mesh put together from this process's shards."""
    if not isinstance(leaf, jax.Array):
        return leaf[rank, first:last]
    part, missing = np.empty((last - first, *leaf.shape[2:]), leaf.dtype), last - first
    missing *= prod(leaf.shape[2:])
    seen = set()
    for shard in leaf.addressable_shards:
        ranks, positions, *rest = (
            range(*where.indices(size))
            for where, size in zip(shard.index, leaf.shape, strict=True)
        )
        a, b = max(first, positions.start), min(last, positions.stop)
        if rank not in ranks or a >= b or (key := (ranks, positions, *rest)) in seen:
            continue
        seen.add(key)
        # starts that are traced: one program serves every row
        start = (rank - ranks.start, a - positions.start, *(0 for _ in rest))
        rows = lax.dynamic_slice(shard.data, start, (1, b - a, *map(len, rest)))[0]
        part[(slice(a - first, b - first), *shard.index[2:])] = np.asarray(rows)
        missing -= rows.size
    if missing:
        raise ValueError(
            f"rows {first} to {last - 1} of rank {rank} are on devices of other processes: they "
            "cannot be read here; save a checkpoint, and read that"
        )
    return part
