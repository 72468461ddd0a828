"""How in-memory leaves lie on the mesh.

Parameters are whole on every pipeline: stacks over `pipe` by their first dim and over `tensor` by
the dim that the layout names, small trees everywhere. The optimizer's state, and the gradients that
it is updated with, are also cut over `data`: each pipeline keeps and updates its part (ZeRO-1).
Which dim is cut: the first other one that the number of pipelines divides; a leaf without one is
whole everywhere.

Source of the cut: Rajbhandari et al., ZeRO, arXiv 1910.02054, section 5.1.
"""

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from seq1f1b_jax.pipeline.mesh import DATA, TENSOR, num_pipelines
from seq1f1b_jax.pipeline.params.layout import AXIS, Layout, is_layer_path, kind_of
from seq1f1b_jax.pipeline.stage import Tree


def specs(tree: Tree, layout: Layout, *, num_data: int = 1) -> Tree:
    """Partition spec of every leaf of in-memory parameters or of a tree over them.

    Args:
      tree: leaves with a shape.
      layout: which dims of a leaf are cut over `pipe` and `tensor`.
      num_data: pipelines to cut leaves over; 1: they are whole on each.
    """

    def of(path, leaf) -> Spec:
        dims = _fixed_dims(path, layout)
        dim = cut_dim(leaf.shape, taken=tuple(dims), num_data=num_data)
        axes = dims if dim is None else {**dims, dim: DATA}
        return Spec(*(axes.get(dim) for dim in range(1 + max(axes, default=-1))))

    return jax.tree.map_with_path(of, tree)


def cut_dim(shape: tuple[int, ...], *, taken: tuple[int, ...], num_data: int) -> int | None:
    """The dim of a leaf that is cut over `data`; `None`: it is whole on every pipeline.

    Args:
      shape: of the leaf.
      taken: dims that are cut over other axes.
      num_data: pipelines.

    Example:
      >>> cut_dim((1, 3, 8), taken=(0,), num_data=2)
      2
    """
    free = [dim for dim in range(len(shape)) if dim not in taken] if num_data > 1 else ()
    return next((dim for dim in free if shape[dim] and shape[dim] % num_data == 0), None)


def shardings(tree: Tree, mesh: Mesh, layout: Layout, *, over_data: bool = False) -> Tree:
    """Sharding of every leaf of in-memory parameters or of an optimizer state over them.

    Args:
      tree: leaves with a shape.
      mesh: axes `pipe` and perhaps `data` and `tensor`.
      layout: see `specs`.
      over_data: whether leaves are cut over `data` too.
    """
    cut = specs(tree, layout, num_data=num_pipelines(mesh) if over_data else 1)
    is_spec = lambda leaf: isinstance(leaf, Spec)  # noqa: E731
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), cut, is_leaf=is_spec)


def reduce_over_data(grads: Tree, layout: Layout, *, num_data: int) -> Tree:
    """Sum of all pipelines' gradients, each keeping its part; inside `shard_map`, once per step."""
    if num_data == 1:
        return grads

    def reduce(path, leaf):
        dim = cut_dim(leaf.shape, taken=tuple(_fixed_dims(path, layout)), num_data=num_data)
        if dim is None:
            return lax.psum(leaf, DATA)
        return lax.psum_scatter(leaf, DATA, scatter_dimension=dim, tiled=True)

    return jax.tree.map_with_path(reduce, grads)


def sum_parts(grads: Tree, layout: Layout) -> Tree:
    """Sum, over `tensor`, the gradients of the layers' weights that are whole on every device."""

    def complete(path, leaf):
        whole = is_layer_path(path) and layout.tensor_dim(path) is None
        return lax.psum(leaf, TENSOR) if whole and layout.num_tensor > 1 else leaf

    return jax.tree.map_with_path(complete, grads)


def _fixed_dims(path: tuple, layout: Layout) -> dict[int, str]:
    """Dims of a leaf that are cut over `pipe` and `tensor`, where these have several devices.

    The compiler names no other axis, and what a step gives back has to lie as it came.
    """
    staged = kind_of(path) is not None and layout.num_ranks > 1
    tensor_dim = layout.tensor_dim(path)
    return ({0: AXIS} if staged else {}) | ({} if tensor_dim is None else {tensor_dim: TENSOR})
