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
"""

from typing import Any

import jax

from seq1f1b_jax.pipeline.params.layout import is_layer_path
from seq1f1b_jax.pipeline.stage import Params, Tree, is_of_experts


def num_stacking_dims(path: tuple, params: Any) -> int:
    """Leading dims of a leaf that count matrices or vectors: ranks, layers, experts.

    Args:
      path: of the leaf.
      params: all of them; the embedding shows in which layout.
    """
    if not is_layer_path(path):
        return 0
    layers = params.embedding.ndim - 1  # [V, d]: layers; [P, rows, d]: ranks and layers
    return layers + is_of_experts(path)


def layer_matrices(params: Params) -> Tree:
    """True for matrices of layers: what Muon makes orthogonal."""

    def is_one(path, leaf) -> bool:
        return is_layer_path(path) and leaf.ndim - num_stacking_dims(path, params) >= 2

    return jax.tree.map_with_path(is_one, params)


def decay_mask(params: Params) -> Tree:
    """True for matrices and tables, false for norms, biases and other vectors."""

    def is_matrix(path, leaf) -> bool:
        return leaf.ndim - num_stacking_dims(path, params) >= 2

    return jax.tree.map_with_path(is_matrix, params)
