"""How batches and in-memory leaves are sharded over the mesh.

Parameters are replicated over `data`; stacks are sharded over `pipe` by their first dim and over
`tensor` by the dim that the layout names, small trees are replicated. The optimizer's state, and
the gradients that it is updated with, are also sharded over `data`: each pipeline keeps and updates
its part (ZeRO-1), along the first free dim that the number of pipelines divides; a leaf without one
is replicated. What an optimizer keeps in another shape than that of its parameter is sharded where
the shape allows it.

Source: Rajbhandari et al., ZeRO, arXiv 1910.02054, section 5.1.
"""

import jax
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from seq1f1b_jax.ops.axes import DATA, PIPE, TENSOR, axis_size
from seq1f1b_jax.pipeline.params.layout import Layout, is_layer_path
from seq1f1b_jax.pipeline.stage import Tree


def batch_spec(mesh: Mesh) -> Spec:
    """Of tokens `[M, B, T]`: the pipelines share the sequences."""
    return Spec(None, DATA) if axis_size(mesh, DATA) > 1 else Spec()


def specs(tree: Tree, layout: Layout, *, num_data: int = 1) -> Tree:
    """Partition spec of every leaf of in-memory parameters or of a tree over them.

    Args:
      tree: leaves with a shape.
      layout: which dims of a leaf are sharded over `pipe` and `tensor`.
      num_data: pipelines to shard leaves over; 1: they are replicated.
    """

    def of(path, leaf) -> Spec:
        fixed = _fixed_dims(path, layout).items()
        dims = {dim: axis for dim, axis in fixed if _fits(leaf.shape, dim, axis, layout)}
        dim = data_dim(leaf.shape, taken=tuple(dims), num_data=num_data)
        axes = dims if dim is None else {**dims, dim: DATA}
        return Spec(*(axes.get(dim) for dim in range(1 + max(axes, default=-1))))

    return jax.tree.map_with_path(of, tree)


def data_dim(shape: tuple[int, ...], *, taken: tuple[int, ...], num_data: int) -> int | None:
    """The dim of a leaf that is sharded over `data`; `None`: it is replicated.

    Args:
      shape: of the leaf.
      taken: dims that are sharded over other axes.
      num_data: pipelines.

    Example:
      >>> data_dim((1, 3, 8), taken=(0,), num_data=2)
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
      over_data: whether leaves are sharded over `data` too.
    """
    of_leaves = specs(tree, layout, num_data=axis_size(mesh, DATA) if over_data else 1)
    is_spec = lambda leaf: isinstance(leaf, Spec)  # noqa: E731
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), of_leaves, is_leaf=is_spec)


def reduce_over_data(grads: Tree, layout: Layout, *, num_data: int) -> Tree:
    """Sum of all pipelines' gradients, each keeping its part; inside `shard_map`, once per step."""
    if num_data == 1:
        return grads

    def reduce(path, leaf):
        dim = data_dim(leaf.shape, taken=tuple(_fixed_dims(path, layout)), num_data=num_data)
        if dim is None:
            return lax.psum(leaf, DATA)
        return lax.psum_scatter(leaf, DATA, scatter_dimension=dim, tiled=True)

    return jax.tree.map_with_path(reduce, grads)


def sum_parts(grads: Tree, layout: Layout) -> Tree:
    """Sum, over `tensor`, the gradients of the layers' weights that are replicated over it."""

    def complete(path, leaf):
        replicated = is_layer_path(path) and layout.tensor_dim(path) is None
        return lax.psum(leaf, TENSOR) if replicated and layout.num_tensor > 1 else leaf

    return jax.tree.map_with_path(complete, grads)


def _fixed_dims(path: tuple, layout: Layout) -> dict[int, str]:
    """Dims of a leaf that are sharded over `pipe` and `tensor`, where these have several devices.

    The compiler names no other axis, and what a step returns must be sharded as it came.
    """
    staged = layout.kind_of(path) is not None and layout.num_ranks > 1
    tensor_dim = layout.tensor_dim(path)
    return ({0: PIPE} if staged else {}) | ({} if tensor_dim is None else {tensor_dim: TENSOR})


def _fits(shape: tuple[int, ...], dim: int, axis: str, layout: Layout) -> bool:
    """Whether a leaf has the dim as the parameter has: an optimizer may keep sums over others."""
    if axis == PIPE:
        return shape[:1] == (layout.num_ranks,)
    return dim < len(shape) and shape[dim] % layout.num_tensor == 0
