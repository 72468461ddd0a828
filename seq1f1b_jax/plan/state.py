"""Bytes of parameters and optimizer on one device, as `pipeline.params` lays them out."""

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from seq1f1b_jax.config import OptimizerConfig
from seq1f1b_jax.config.optimizer import resolve_optimizer
from seq1f1b_jax.plan.shape import ModelShape

FLOAT = 4
RATE_COUNTS = 2
"""Scalars of four bytes beside the optimizer's own: steps of the run, and of its learning rate."""


class Spread(NamedTuple):
    """The mesh, and the layers on it.

    Attributes:
      data, pipe, tensor: sizes of the axes.
      rank_layers: layers that a rank has room for, over all its stages.
    """

    data: int
    pipe: int
    tensor: int
    rank_layers: int


class StateBytes(NamedTuple):
    """Bytes of one device.

    Attributes:
      params: float32 parameters.
      moments: what the optimizer keeps, sharded over `data`.
    """

    params: int
    moments: int

    @property
    def total(self) -> int:
        """Both."""
        return self.params + self.moments


class _Dim(NamedTuple):
    """A dim of an in-memory leaf: its size on one device, and whether another axis shards it."""

    size: int
    taken: bool = False


class _Leaf(NamedTuple):
    """An in-memory leaf of the parameters.

    Attributes:
      dims: without the first, that of the ranks.
      num_stacking: of these, how many count layers, and experts.
      num_rows: of a matrix, over all devices and without padding; 1: it is a vector.
      tensor_dim: which of the dims is sharded over `tensor`.
      is_table: whether its rows are spread over devices.
    """

    dims: tuple[_Dim, ...]
    num_stacking: int
    num_rows: int
    tensor_dim: int | None = None
    is_table: bool = False


def state_bytes(shape: ModelShape, spread: Spread, optimizer: OptimizerConfig) -> StateBytes:
    """Parameters, and moments each pipeline keeps its part of (ZeRO-1).

    A leaf whose dims the number of pipelines does not divide is replicated, as in
    `pipeline.params.sharding`.
    """
    leaves = list(_leaves(shape, spread))
    params = sum(_size(leaf.dims, 1) for leaf in leaves)
    kept = [dims for leaf in leaves for dims in _moments(leaf, spread, optimizer)]
    counts = RATE_COUNTS + (2 if optimizer.name == "muon" else 1)
    return StateBytes(FLOAT * params, FLOAT * (sum(_size(d, spread.data) for d in kept) + counts))


def _moments(
    leaf: _Leaf, spread: Spread, optimizer: OptimizerConfig
) -> Iterator[tuple[_Dim, ...]]:
    """Dims of what an optimizer keeps of a leaf."""
    is_layer_matrix = leaf.num_stacking > 0 and leaf.num_rows > 1
    if optimizer.name == "adafactor":
        least = resolve_optimizer(optimizer)["min_dim_size_to_factor"]
        columns = leaf.dims[-1]
        num_columns = columns.size * (spread.tensor if columns.taken else 1)
        if leaf.num_rows > 1 and min(leaf.num_rows, num_columns) >= least:
            yield leaf.dims[:-1]
            yield _columns(leaf, num_columns, spread)
        else:
            yield leaf.dims
    elif optimizer.name == "lion" or (optimizer.name == "muon" and is_layer_matrix):
        yield leaf.dims
    else:
        yield from (leaf.dims, leaf.dims)


def _columns(leaf: _Leaf, num_columns: int, spread: Spread) -> tuple[_Dim, ...]:
    """Dims of one number per column; of a layer sharded as `pipeline.params.sharding` does.

    It shards the dim that the parameter's is, where there is one as large as that divides.
    """
    if leaf.is_table:
        return (_Dim(num_columns),)
    stacking = leaf.dims[: leaf.num_stacking]
    shared = leaf.tensor_dim == leaf.num_stacking and num_columns % spread.tensor == 0
    return (*stacking, _Dim(num_columns // (spread.tensor if shared else 1), shared))


def _size(dims: tuple[_Dim, ...], num_data: int) -> int:
    """Numbers on one device; all pipelines have a part, or each has all."""
    free = (dim.size for dim in dims if not dim.taken)
    parts = num_data if any(size % num_data == 0 for size in free) else 1
    return prod(dim.size for dim in dims) // parts


def _leaves(shape: ModelShape, spread: Spread) -> Iterator[_Leaf]:
    """Every in-memory leaf on one device."""
    for leaf in shape.layer_leaves(spread.tensor):
        sharded = None if spread.tensor == 1 else leaf.tensor_dim
        dims = [_Dim(size, dim == sharded) for dim, size in enumerate(leaf.shape)]
        rows = prod(dim.size * (spread.tensor if dim.taken else 1) for dim in dims[:-1])
        at, stacking = None if sharded is None else 1 + sharded, 1
        if leaf.stacked:
            rows, stacking = rows // leaf.shape[0], 2
        yield _Leaf((_Dim(spread.rank_layers), *dims), stacking, rows, at)
    tables = [shape.vocab_size] * (1 if shape.tied else 2)
    for rows in (*tables, *[shape.learned_positions] * bool(shape.learned_positions)):
        kept = -(-rows // (spread.pipe * spread.tensor))
        dims = (_Dim(kept, spread.tensor > 1), _Dim(shape.model_dim))
        yield _Leaf(dims, 0, rows, is_table=True)
    yield from [_Leaf((_Dim(shape.model_dim),), 0, 1)] * (2 if shape.centred else 1)
