"""What is one matrix: leaves are stacks of them, in memory and in the layout free of topology.

    leaf                     free of topology      in memory                       a matrix is
    of a layer, 2 dims       [N, in, out]          [P, L, in, out]                 [in, out]
    of a layer, more dims    [N, h, e, d]          [P, L, h, e, d]                 [h * e, d]
    of a layer, 1 dim        [N, d]                [P, L, d]                       none: vectors
    of experts               [N, E, in, out]       [P, L, E, in, out]              [in, out]
    table                    [V, d]                [P, rows, d]                    the whole
    other                    as it is              as it is                        the whole

with N layers, P ranks, room for L layers on each, V rows. The last dim is what a matrix gives,
those before it what it takes: attention's output projection takes heads and their widths at once.

Which layout it is, a table shows; where no table trains, the shapes of the model do.
"""

from typing import Any

import jax

from seq1f1b_jax.pipeline import PipelineStep
from seq1f1b_jax.pipeline.params.layout import is_layer_path
from seq1f1b_jax.pipeline.stage import Params, Tree, is_of_experts


def num_stacking_dims(path: tuple, params: Any, pipeline: PipelineStep | None = None) -> int:
    """Leading dims of a leaf that count matrices or vectors: ranks, layers, experts.

    Args:
      path: of the leaf.
      params: all of them that train.
      pipeline: where they may be; `None` will do where a table trains.

    Raises:
      ValueError: there is no telling in which layout they are.
    """
    if not is_layer_path(path):
        return 0
    experts = int(is_of_experts(path))
    for table in (params.embedding, params.head):
        if table is not None:  # [V, d]: layers; [P, rows, d]: ranks and layers
            return table.ndim - 1 + experts
    if pipeline is None:
        raise ValueError(
            "no vocabulary table trains, so the layout of the parameters cannot be seen; make the "
            "optimizer with their pipeline (make_optimizer(..., pipeline=...))"
        )
    leaves = jax.tree.leaves(params.layers)
    whole = jax.tree.leaves(pipeline.trained.only(pipeline.abstract_params()).layers)
    return (2 if leaves[0].ndim == whole[0].ndim else 1) + experts


def layer_matrices(params: Params, pipeline: PipelineStep | None = None) -> Tree:
    """True for matrices of layers: what Muon makes orthogonal."""

    def is_one(path, leaf) -> bool:
        return is_layer_path(path) and leaf.ndim - num_stacking_dims(path, params, pipeline) >= 2

    return jax.tree.map_with_path(is_one, params)


def decay_mask(params: Params, pipeline: PipelineStep | None = None) -> Tree:
    """True for matrices and tables, false for norms, biases and other vectors."""

    def is_matrix(path, leaf) -> bool:
        return leaf.ndim - num_stacking_dims(path, params, pipeline) >= 2

    return jax.tree.map_with_path(is_matrix, params)
