"""Weights of a checkpoint as parameters, read one tensor at a time where they are going to lie."""

import jax
import numpy as np
from jax.sharding import Mesh

from models.decoder import Decoder
from models.hf.match import Match, leaf_name, leaf_shapes, match
from models.hf.source import Source
from seq1f1b_jax.pipeline.layout import (
    Layout,
    is_layer_path,
    is_table_path,
    staged_shapes,
)
from seq1f1b_jax.pipeline.sharding import shardings
from seq1f1b_jax.pipeline.stage import Params


def load_params(source: Source, stage: Decoder, layout: Layout, mesh: Mesh) -> Params:
    """A checkpoint's weights on the mesh, float32, in the in-memory layout.

    Each process reads the tensors of its own ranks only, and holds, besides its share of the
    parameters, one tensor of the file and one leaf of its ranks.

    Args:
      source: from `read_source`.
      stage: the model; a source's `fields` build it.
      layout: which layer lives where.
      mesh: has the axis `pipe`, and perhaps `data` and `tensor`.

    Raises:
      UserError: checkpoint and model differ; one message tells all differences.
    """
    found = match(source, stage)
    shapes = staged_shapes(leaf_shapes(stage), layout)

    def put(path, shape, sharding):
        def share(index):
            return _share(found, path, shape, layout, index)

        return jax.make_array_from_callback(shape.shape, sharding, share)

    return jax.tree.map_with_path(put, shapes, shardings(shapes, mesh, layout))


def load_canonical(source: Source, stage: Decoder) -> Params:
    """A checkpoint's weights in the layout that is free of topology, NumPy, float32.

    Args:
      source: from `read_source`.
      stage: the model.

    Raises:
      UserError: checkpoint and model differ; one message tells all differences.

    Example:
      >>> import pathlib, tempfile
      >>> import jax
      >>> from models import build_stage
      >>> from models.hf import export, load_canonical, read_source
      >>> stage = build_stage("llama", preset="tiny", vocab_size=8)
      >>> folder = pathlib.Path(tempfile.mkdtemp(), "model")
      >>> source = read_source(export(stage.init(jax.random.key(0)), stage, folder))
      >>> load_canonical(source, build_stage(**source.fields)).embedding.shape[0]
      8
    """
    found = match(source, stage)

    def get(path, shape):
        name = leaf_name(path)
        if not is_layer_path(path):
            return _whole(found, name, shape)
        leaf = np.empty(shape.shape, shape.dtype)
        for layer in range(stage.num_layers):
            leaf[layer] = found.read(name, layer)
        return leaf

    return jax.tree.map_with_path(get, leaf_shapes(stage))


def _share(found: Match, path, shape, layout: Layout, index) -> np.ndarray:
    """What one device holds of a leaf: its rank's part, or the whole of a small one."""
    name = leaf_name(path)
    if not (is_layer_path(path) or is_table_path(path)):
        return _whole(found, name, shape)[index]
    part = _layers_of_rank if is_layer_path(path) else _rows_of_rank
    ranks = range(*index[0].indices(layout.num_stages))
    share = np.stack([part(found, name, shape, layout, rank) for rank in ranks])
    return share[(slice(None), *index[1:])]


def _whole(found: Match, name: str, shape) -> np.ndarray:
    return np.array(found.read(name), shape.dtype)


def _layers_of_rank(found: Match, name: str, shape, layout: Layout, rank: int) -> np.ndarray:
    """`[rank_layers, ...]`: the layers of one rank, zeros where it has fewer than room for."""
    share = np.zeros(shape.shape[1:], shape.dtype)
    for layer, row in enumerate(layout.positions()):
        owner, place = divmod(int(row), layout.rank_layers)
        if owner == rank:
            share[place] = found.read(name, layer)
    return share


def _rows_of_rank(found: Match, name: str, shape, layout: Layout, rank: int) -> np.ndarray:
    """`[num_tensor * table_rows, d]`: one rank's rows of a table, zeros where there are none."""
    share = np.zeros(shape.shape[1:], shape.dtype)
    table, count = found.read(name), layout.table_rows
    for part in range(layout.num_tensor):
        first = (part * layout.num_stages + rank) * count
        rows = table[first : first + count]
        share[part * count : part * count + len(rows)] = rows
    return share
