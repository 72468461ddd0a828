"""Bytes of parameters and optimizer on one device, as `pipeline.params` lays them out."""

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from seq1f1b_jax.config import OptimizerConfig
from seq1f1b_jax.config.lora import ADAPTER_LEAVES
from seq1f1b_jax.config.optimizer import resolve_optimizer
from seq1f1b_jax.plan.model.shape import EXPERTS, ModelShape
from seq1f1b_jax.schedule import TrainedWeights

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

    def part_rows(self, num_rows: int) -> int:
        """Of a table's rows, how many one device uses in a step; see `Layout.part_rows`."""
        if self.tensor == 1:
            return num_rows
        return self.pipe * -(-num_rows // (self.pipe * self.tensor))


class StateBytes(NamedTuple):
    """Bytes of one device.

    Attributes:
      params: float32 parameters.
      moments: what the optimizer keeps, sharded over `data`.
      trained: of the parameters, those that train.
    """

    params: int
    moments: int
    trained: int

    @property
    def total(self) -> int:
        """Parameters and moments."""
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
      trains: whether the optimizer updates it.
    """

    dims: tuple[_Dim, ...]
    num_stacking: int
    num_rows: int
    tensor_dim: int | None = None
    is_table: bool = False
    trains: bool = True


def state_bytes(shape: ModelShape, spread: Spread, optimizer: OptimizerConfig) -> StateBytes:
    """Parameters, and moments each pipeline keeps its part of (ZeRO-1).

    A leaf whose dims the number of pipelines does not divide is replicated, as in
    `pipeline.params.sharding`.
    """
    leaves = list(_leaves(shape, spread))
    params = sum(_size(leaf.dims, 1) for leaf in leaves)
    own = [leaf for leaf in leaves if leaf.trains]
    trained = sum(_size(leaf.dims, 1) for leaf in own)
    kept = [dims for leaf in own for dims in _moments(leaf, spread, optimizer)]
    counts = RATE_COUNTS + (2 if optimizer.name == "muon" else 1)
    moments = sum(_size(dims, spread.data) for dims in kept) + counts
    return StateBytes(FLOAT * params, FLOAT * moments, FLOAT * trained)


def num_gradients(shape: ModelShape, spread: Spread) -> int:
    """Numbers in the accumulators of one device."""
    own = sum(
        prod(leaf.shape) for leaf in shape.layer_leaves(spread.tensor)
        if shape.trains(f"layers.{leaf.name}")
    )
    last = ("last.scale", "last.bias") if shape.centred else ("last.scale",)
    small = shape.model_dim * sum(map(shape.trains, last))
    return spread.rank_layers * own + small + num_table_gradients(shape, spread)


def num_table_gradients(shape: ModelShape, spread: Spread) -> int:
    """Those of tables; one of embedding and head has some if one of them trains."""
    vocabulary = [shape.vocab_size * own for own in (shape.trains("embedding"), shape.trains_head)]
    if shape.tied or spread.pipe > 1:
        vocabulary = [max(vocabulary)]
    rows = [*vocabulary, shape.learned_positions * shape.trains("first.table")]
    return sum(map(spread.part_rows, rows)) * shape.model_dim


def trained_weights(shape: ModelShape) -> TrainedWeights | None:
    """What trains, as FLOPs count it; `None`: all of a model without adapters."""
    if shape.trainable is None and not shape.lora.rank:
        return None
    sizes = {leaf.name: prod(leaf.shape) for leaf in shape.layer_leaves(1) if len(leaf.shape) > 1}
    for name in EXPERTS if shape.num_experts else ():
        name += ".kernel"
        sizes[name] = sizes[name] // shape.num_experts * shape.experts_per_token
    adapters = sum(size for name, size in sizes.items() if name.endswith(ADAPTER_LEAVES))
    own = sum(size for name, size in sizes.items() if shape.trains(f"layers.{name}"))
    return TrainedWeights(adapters, own, shape.trains_head)


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
        trains = shape.trains(f"layers.{leaf.name}")
        yield _Leaf((_Dim(spread.rank_layers), *dims), stacking, rows, at, trains=trains)
    tables = {"embedding": shape.vocab_size, "head": 0 if shape.tied else shape.vocab_size}
    for name, rows in (tables | {"first.table": shape.learned_positions}).items():
        if not rows:
            continue
        kept = -(-rows // (spread.pipe * spread.tensor))
        dims = (_Dim(kept, spread.tensor > 1), _Dim(shape.model_dim))
        yield _Leaf(dims, 0, rows, is_table=True, trains=shape.trains(name))
    for name in ("scale", "bias") if shape.centred else ("scale",):
        yield _Leaf((_Dim(shape.model_dim),), 0, 1, trains=shape.trains(f"last.{name}"))
