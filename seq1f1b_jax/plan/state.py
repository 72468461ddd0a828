"""Bytes of parameters and optimizer on one device, as `pipeline.params` lays them out."""

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from seq1f1b_jax.plan.shape import ModelShape

FLOAT = 4
MOMENTS = 2
"""Of AdamW, for each parameter."""
COUNTS = 3
"""Scalars of four bytes: steps of the run, of AdamW, and of its learning rate."""


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


def state_bytes(shape: ModelShape, spread: Spread) -> StateBytes:
    """Parameters, and moments each pipeline keeps its part of (ZeRO-1).

    A leaf whose dims the number of pipelines does not divide is replicated, as in
    `pipeline.params.sharding`.
    """
    leaves = list(_leaves(shape, spread))
    params = sum(prod(dim.size for dim in dims) for dims in leaves)
    kept = sum(prod(dim.size for dim in dims) // _parts(dims, spread.data) for dims in leaves)
    return StateBytes(FLOAT * params, FLOAT * (MOMENTS * kept + COUNTS))


def _parts(dims: list[_Dim], num_data: int) -> int:
    """Over how many pipelines a leaf is sharded: all or none."""
    free = (dim.size for dim in dims if not dim.taken)
    return num_data if any(size % num_data == 0 for size in free) else 1


def _leaves(shape: ModelShape, spread: Spread) -> Iterator[list[_Dim]]:
    """Dims of every in-memory leaf on one device, without the first, that of the ranks."""
    for leaf in shape.layer_leaves(spread.tensor):
        dims = [_Dim(size, dim == leaf.tensor_dim) for dim, size in enumerate(leaf.shape)]
        yield [_Dim(spread.rank_layers), *dims]
    tables = [shape.vocab_size] * (1 if shape.tied else 2)
    for rows in (*tables, *[shape.learned_positions] * bool(shape.learned_positions)):
        kept = -(-rows // (spread.pipe * spread.tensor))
        yield [_Dim(kept, spread.tensor > 1), _Dim(shape.model_dim)]
    yield from [[_Dim(shape.model_dim)]] * (2 if shape.centred else 1)
