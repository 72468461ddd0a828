"""Parameters on the mesh: stacked by stage in memory, free of topology at rest.

In memory a leaf of `Params.layers` is `[num_ranks, stages_per_rank * max_layers, ...]`, sharded
over `pipe` by its first dim: rank p holds the stages p, p+P, p+2P ..., one after the other. Stages
with fewer layers are padded with zeros that no action ever reads. Tables of n rows, those of the
vocabulary and of learned positions, are `[num_ranks, num_tensor * rows, d]` with
`rows = ceil(n / (num_ranks * num_tensor))`, sharded over `pipe` and `tensor`: device j of the axis
`tensor` owns the j-th part of the rows, and each of its stages a part of that.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Literal, NamedTuple

import jax
from jax.tree import leaves_with_path
from jax.tree_util import keystr

from seq1f1b_jax.pipeline.stage import Stage, Tree, leaf_name
from seq1f1b_jax.schedule.simulation.layers import even_layers

Kind = Literal["layer", "table"] | None
"""Of a leaf: stacked by layers, sharded by its rows, or small and the same in both layouts."""


class Run(NamedTuple):
    """Rows of a topology-free leaf that are contiguous in memory too.

    Attributes:
      start: the first of them; a row is a layer or, of a table, an entry.
      count: how many.
      rank: the in-memory leaf's first index.
      position: its second, of the first row.
    """

    start: int
    count: int
    rank: int
    position: int


@dataclass(frozen=True)
class Layout:
    """Which layer, and which row of a table, is on which device.

    Attributes:
      layers_per_stage: layers of every stage along the model, `stages_per_rank` for each rank.
      vocab_size: rows of a vocabulary table.
      tied: whether embedding and head are one table.
      stages_per_rank: stages per rank.
      num_tensor: devices that share every stage.
      tensor_dims: which dim of a layer's leaf is sharded over them, by the leaf's path in a layer;
        leaves that are not named are replicated.
      position_tables: rows of every table of learned positions, by its path in `Params`.
    """

    layers_per_stage: tuple[int, ...]
    vocab_size: int
    tied: bool
    stages_per_rank: int = 1
    num_tensor: int = 1
    tensor_dims: tuple[tuple[str, int], ...] = ()
    position_tables: tuple[tuple[str, int], ...] = ()

    @property
    def num_layers(self) -> int:
        """Of the model."""
        return sum(self.layers_per_stage)

    @property
    def num_ranks(self) -> int:
        """Ranks of the pipeline."""
        return len(self.layers_per_stage) // self.stages_per_rank

    @property
    def max_layers(self) -> int:
        """Layers of the largest stage: every stage has room for as many."""
        return max(self.layers_per_stage)

    @property
    def rank_layers(self) -> int:
        """Layers that a rank has room for, over all its stages."""
        return self.stages_per_rank * self.max_layers

    @property
    def vocab_part(self) -> int:
        """Rows of a vocabulary table that one device uses: all, or its part."""
        return self.part_rows(self.vocab_size)

    def shard_rows(self, num_rows: int) -> int:
        """Of a table's rows, how many one device keeps; the last ones may be padding."""
        return -(-num_rows // (self.num_ranks * self.num_tensor))

    def part_rows(self, num_rows: int) -> int:
        """How many one device uses in a step: all, or its part, which may end in padding."""
        return num_rows if self.num_tensor == 1 else self.num_ranks * self.shard_rows(num_rows)

    def kind_of(self, path: tuple) -> Kind:
        """What a leaf is, by its path in parameters or in an optimizer's state."""
        if is_layer_path(path):
            return "layer"
        is_table = _is_vocabulary_path(path) or _first_leaf(path) in dict(self.position_tables)
        return "table" if is_table else None

    def num_rows(self, path: tuple) -> int:
        """Rows of a stacked leaf or of a table, where it is free of topology."""
        if is_layer_path(path):
            return self.num_layers
        return dict(self.position_tables).get(_first_leaf(path), self.vocab_size)

    def tensor_dim(self, path: tuple) -> int | None:
        """The dim of an in-memory leaf that is sharded over `tensor`, if any."""
        if self.num_tensor == 1:
            return None
        if self.kind_of(path) == "table":
            return 1
        dim = dict(self.tensor_dims).get(layer_leaf(path)) if is_layer_path(path) else None
        return None if dim is None else 2 + dim

    def runs(self, kind: Kind, num_rows: int = 0) -> Iterator[Run]:
        """Where the rows of a stacked leaf, or of a table of so many, are in memory, in order."""
        if kind == "layer":
            start = 0
            for stage, count in enumerate(self.layers_per_stage):
                group, rank = divmod(stage, self.num_ranks)
                yield Run(start, count, rank, group * self.max_layers)
                start += count
        elif kind == "table":
            rows = self.shard_rows(num_rows)
            for part, rank in product(range(self.num_tensor), range(self.num_ranks)):
                start = (part * self.num_ranks + rank) * rows
                count = min(rows, num_rows - start)
                if count > 0:
                    yield Run(start, count, rank, part * rows)


def make_layout(
    num_layers: int,
    num_ranks: int,
    *,
    vocab_size: int,
    tied: bool,
    stages_per_rank: int = 1,
    layers_per_stage: Sequence[int] | None = None,
    num_tensor: int = 1,
    tensor_dims: Mapping[str, int] = MappingProxyType({}),
    position_tables: Mapping[str, int] = MappingProxyType({}),
) -> Layout:
    """Distribute layers over stages; the earlier stages take the remainder.

    Args:
      num_layers: of the model.
      num_ranks: ranks of the pipeline.
      vocab_size: rows of a vocabulary table.
      tied: whether embedding and head are one table.
      stages_per_rank: stages per rank.
      layers_per_stage: layers of every stage along the model; None: as even as they go.
      num_tensor: devices that share every stage.
      tensor_dims: see `Layout`.
      position_tables: likewise.

    Raises:
      ValueError: fewer layers than stages, or `layers_per_stage` that does not add up.
    """
    count = num_ranks * stages_per_rank
    virtual = f" ({stages_per_rank} stages on each of {num_ranks} ranks)" * (stages_per_rank > 1)
    if layers_per_stage is None:
        if num_layers < count:
            raise ValueError(
                f"num_layers={num_layers} is fewer than the {count} stages{virtual}; "
                f"each stage needs a layer: use at most {num_layers} stages or more layers"
            )
        layers_per_stage = even_layers(num_layers, count)
    counts = tuple(int(layers) for layers in layers_per_stage)
    if len(counts) != count or sum(counts) != num_layers or min(counts) < 1:
        raise ValueError(
            f"layers_per_stage={list(counts)} must hold {count} positive counts{virtual} "
            f"that add up to num_layers={num_layers}; they are {len(counts)} and sum to "
            f"{sum(counts)}"
        )
    sharded, tables = (tuple(sorted(given.items())) for given in (tensor_dims, position_tables))
    return Layout(counts, vocab_size, tied, stages_per_rank, num_tensor, sharded, tables)


def tensor_dims_of(stage: Stage, part: Stage) -> dict[str, int]:
    """Which dim of each leaf of a layer is shorter on one device than in the whole model.

    Args:
      stage: the model.
      part: what one device of the axis `tensor` sees of it.
    """
    whole = jax.eval_shape(stage.init, jax.random.key(0)).layers
    own = jax.eval_shape(part.init, jax.random.key(0)).layers
    dims = {}
    for (path, leaf), part_leaf in zip(leaves_with_path(whole), jax.tree.leaves(own), strict=True):
        shorter = [i for i, size in enumerate(leaf.shape[1:]) if part_leaf.shape[1 + i] != size]
        dims |= {keystr(path): dim for dim in shorter}
    return dims


def is_layer_path(path: tuple) -> bool:
    """Whether a tree path is inside `Params.layers` (also in an optimizer state)."""
    return any(getattr(key, "name", None) == "layers" for key in path)


def layer_leaf(path: tuple) -> str:
    """The part of a tree path inside `Params.layers`: a leaf's path in one layer."""
    names = [getattr(key, "name", None) for key in path]
    return keystr(path[names.index("layers") + 1 :])


def _is_vocabulary_path(path: tuple) -> bool:
    return any(getattr(key, "name", None) in ("embedding", "head") for key in path)


def _first_leaf(path: tuple) -> str | None:
    """A tree path from `first` on, dots between; `None` outside of it."""
    names = [getattr(key, "name", None) for key in path]
    return leaf_name(path[names.index("first") :]) if "first" in names else None


def staged_shape(shape: tuple[int, ...], kind: Kind, layout: Layout) -> tuple[int, ...]:
    """Shape of the in-memory leaf that a topology-free one of `shape` becomes."""
    if kind == "layer":
        return (layout.num_ranks, layout.rank_layers, *shape[1:])
    if kind == "table":
        rows = layout.num_tensor * layout.shard_rows(shape[0])
        return (layout.num_ranks, rows, *shape[1:])
    return tuple(shape)


def staged_shapes(tree: Tree, layout: Layout) -> Tree:
    """Shapes of the in-memory stack of topology-free leaves."""

    def convert(path, leaf):
        shape = staged_shape(leaf.shape, layout.kind_of(path), layout)
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    return jax.tree.map_with_path(convert, tree)
