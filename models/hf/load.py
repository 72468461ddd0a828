"""Weights of a checkpoint as parameters, read one tensor at a time by the process that needs it."""

import jax
import numpy as np
from jax.sharding import Mesh

from seq1f1b_jax.models.decoder import Decoder
from seq1f1b_jax.models.hf.match import leaf_shapes, match
from seq1f1b_jax.models.hf.source import Source
from seq1f1b_jax.pipeline.params.layout import Layout, is_layer_path, staged_shapes
from seq1f1b_jax.pipeline.params.rows import Rows, put_tree, slices
from seq1f1b_jax.pipeline.params.sharding import shardings
from seq1f1b_jax.pipeline.stage import Params, leaf_name


def load_rows(source: Source, stage: Decoder) -> Params:
    """A checkpoint's weights, float32, each leaf read when its rows are needed.

    Args:
      source: from `read_source`.
      stage: the model; a source's `fields` build it.

    Returns:
      `Rows` in the topology-free layout, for `PipelineStep.from_canonical` or `export`.

    Raises:
      UserError: checkpoint and model differ; the message lists all differences.
    """
    found = match(source, stage)

    def rows(path, shape):
        name = leaf_name(path)

        def read(start, stop):
            layers = [found.read(name, layer) for layer in range(start, stop)]
            return np.stack(layers, dtype=shape.dtype, casting="same_kind")

        if is_layer_path(path):
            return Rows(shape.shape, np.dtype(shape.dtype), lambda: read)
        return Rows(
            shape.shape, np.dtype(shape.dtype), lambda: slices(found.read(name), shape.dtype)
        )

    return jax.tree.map_with_path(rows, leaf_shapes(stage))


def load_params(source: Source, stage: Decoder, layout: Layout, mesh: Mesh) -> Params:
    """A checkpoint's weights on the mesh, float32, in the in-memory layout.

    Each process reads the tensors of its own ranks only, and holds, besides its share of the
    parameters, one tensor of the file.

    Args:
      source: from `read_source`.
      stage: the model.
      layout: which layer is on which rank.
      mesh: has the axis `pipe`, and perhaps `data` and `tensor`.

    Raises:
      UserError: checkpoint and model differ; the message lists all differences.
    """
    rows = load_rows(source, stage)
    return put_tree(rows, shardings(staged_shapes(rows, layout), mesh, layout), layout)


def load_canonical(source: Source, stage: Decoder) -> Params:
    """A checkpoint's weights in the topology-free layout, NumPy, float32.

    Args:
      source: from `read_source`.
      stage: the model.

    Raises:
      UserError: checkpoint and model differ; the message lists all differences.

    Example:
      >>> import pathlib, tempfile
      >>> import jax
      >>> from seq1f1b_jax.models import build_stage
      >>> from seq1f1b_jax.models.hf import export, load_canonical, read_source
      >>> stage = build_stage("llama", preset="tiny", vocab_size=8)
      >>> folder = pathlib.Path(tempfile.mkdtemp(), "model")
      >>> source = read_source(export(stage.init(jax.random.key(0)), stage, folder))
      >>> load_canonical(source, build_stage(**source.fields)).embedding.shape[0]
      8
    """
    return jax.tree.map(np.asarray, load_rows(source, stage))
