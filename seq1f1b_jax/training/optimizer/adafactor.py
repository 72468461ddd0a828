"""Adafactor: second moments of a matrix as one mean per row and one per column.

With the gradient G of a matrix of n rows and m columns in step t (from 1), b = 1 - t**-decay_rate,

    r = b r + (1-b) mean_columns(G^2 + e)       c = b c + (1-b) mean_rows(G^2 + e)
    U = G / sqrt(r c / mean(r))                 U = U / max(1, rms(U) / clip_rms)
    step = U * max(1e-3, rms(matrix))           with parameter_scale

It holds n + m numbers in the place of n m. Vectors, and matrices with a side below
`min_dim_size_to_factor`, keep G^2 whole. Optax's factors the two largest dims of a leaf, and takes
the mean square over the whole of it. Here a leaf is a stack of matrices (`leaves`), each of which
is a parameter of its own, and a table has rows of padding, which do not count; so the formulas are
written out. Their twin is Optax's transformation, matrix by matrix.

Source: Shazeer and Stern, arXiv 1804.04235, algorithms 4 and 5, sections 6 and 7.
"""

from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from seq1f1b_jax.pipeline import PipelineStep
from seq1f1b_jax.pipeline.stage import Tree, leaf_name
from seq1f1b_jax.training.optimizer.leaves import num_stacking_dims

SMALLEST = 1e-30
"""Added to squares of gradients."""
SMALLEST_RMS = 1e-3
"""Of a matrix that steps are relative to: one that is zero has to leave it."""


class FactoredState(NamedTuple):
    """State of `scale_by_adafactor`; its trees have `None` where a leaf has another form.

    Attributes:
      count: finished steps.
      rows: means over columns, of the parameter's shape without its last dim.
      columns: means over rows, `[..., columns]` with the parameter's stacking dims.
      table_columns: likewise of tables, by the leaf's name. A table's column is the same on all
        devices: under a table's path it would be taken for rows.
      whole: second moments that are not factored, of the parameter's shape.
    """

    count: Int[Array, ""]
    rows: Tree
    columns: Tree
    table_columns: dict[str, Float[Array, " columns"]]
    whole: Tree


class Moments(NamedTuple):
    """Of one leaf: rows and columns, or whole."""

    rows: Array | None = None
    columns: Array | None = None
    whole: Array | None = None


class Matrices(NamedTuple):
    """How a leaf is a stack of matrices, or of vectors.

    Attributes:
      num_stacking: leading dims that count them.
      num_rows: of a matrix, without padding; of a vector 1.
      num_columns: of a matrix; entries of a vector.
      is_table: whether rows are spread over devices.
      factored: whether second moments are kept by rows and columns.
    """

    num_stacking: int
    num_rows: int
    num_columns: int
    is_table: bool
    factored: bool

    def mean(self, values: Array, *, over: str) -> Array:
        """Mean over `rows`, `columns` or `all` of them; dims are kept."""
        dims = tuple(range(self.num_stacking, values.ndim))
        dims = {"rows": dims[:-1], "columns": dims[-1:], "all": dims}[over]
        count = {"rows": self.num_rows, "columns": self.num_columns}.get(over)
        return values.sum(dims, keepdims=True) / (count or self.num_rows * self.num_columns)


def scale_by_adafactor(
    *,
    decay_rate: float,
    clip_rms: float,
    parameter_scale: bool,
    min_dim_size_to_factor: int,
    pipeline: PipelineStep | None = None,
) -> optax.GradientTransformation:
    """The direction of a step, without decay and learning rate.

    Args:
      decay_rate: see above.
      clip_rms: largest root mean square of a step.
      parameter_scale: whether steps are relative to the matrix's.
      min_dim_size_to_factor: smallest side of a factored matrix.
      pipeline: where the parameters are; `None`: free of topology.
    """

    def split(params: Tree) -> tuple[list[tuple], list[Array], list[Matrices], Any]:
        found, structure = jax.tree.flatten_with_path(params)
        kinds = [
            matrices_of(path, leaf, params, pipeline=pipeline, least=min_dim_size_to_factor)
            for path, leaf in found
        ]
        return [path for path, _ in found], [leaf for _, leaf in found], kinds, structure

    def pack(count, paths, kinds, moments: list[Moments], structure) -> FactoredState:
        tables = {
            leaf_name(path): kept.columns
            for path, kind, kept in zip(paths, kinds, moments, strict=True)
            if kind.is_table and kept.columns is not None
        }
        columns = [
            None if kind.is_table else kept.columns
            for kind, kept in zip(kinds, moments, strict=True)
        ]
        return FactoredState(
            count, structure.unflatten([kept.rows for kept in moments]),
            structure.unflatten(columns), tables,
            structure.unflatten([kept.whole for kept in moments]),
        )

    def unpack(state: FactoredState, paths, kinds, structure) -> list[Moments]:
        parts = map(structure.flatten_up_to, (state.rows, state.columns, state.whole))
        return [
            Moments(
                rows, state.table_columns.get(leaf_name(path)) if kind.is_table else columns, whole
            )
            for path, kind, rows, columns, whole in zip(paths, kinds, *parts, strict=True)
        ]

    def init(params):
        paths, leaves, kinds, structure = split(params)
        moments = [_zeros(leaf, kind) for leaf, kind in zip(leaves, kinds, strict=True)]
        return pack(jnp.zeros((), jnp.int32), paths, kinds, moments, structure)

    def update(grads, state, params):
        paths, leaves, kinds, structure = split(grads)
        own = structure.flatten_up_to(params)
        kept = 1.0 - jnp.asarray(state.count + 1, jnp.float32) ** (-decay_rate)
        steps, moments = [], []
        for grad, param, kind, old in zip(
            leaves, own, kinds, unpack(state, paths, kinds, structure), strict=True
        ):
            step, new = _direction(grad, old, kind, kept)
            step = step / jnp.maximum(1.0, _rms(step, kind) / clip_rms)
            if parameter_scale:
                step = step * jnp.maximum(_rms(param, kind), SMALLEST_RMS)
            steps.append(step)
            moments.append(new)
        count = optax.safe_increment(state.count)
        return structure.unflatten(steps), pack(count, paths, kinds, moments, structure)

    return optax.GradientTransformation(init, update)


def matrices_of(
    path: tuple, leaf: Any, params: Tree, *, pipeline: PipelineStep | None, least: int
) -> Matrices:
    """What a leaf of parameters, in memory or free of topology, is a stack of.

    Raises:
      ValueError: parameters in memory, without a layout that says how many rows are padding.
    """
    layout, table = None if pipeline is None else pipeline.layout, params.embedding
    if layout is None and table is not None and table.ndim > 2:
        raise ValueError(
            f"the embedding of shape {table.shape} is in memory, and Adafactor has to "
            "know its rows of padding; make the optimizer with the pipeline of the parameters"
        )
    num_stacking = num_stacking_dims(path, params, pipeline)
    *ins, columns = leaf.shape[num_stacking:] or (1,)
    is_table = layout is not None and layout.kind_of(path) == "table"
    rows = layout.num_rows(path) if layout is not None and is_table else prod(ins)
    factored = bool(ins) and min(rows, columns) >= least
    return Matrices(num_stacking, rows, columns, is_table, factored)


def _zeros(leaf: Any, kind: Matrices) -> Moments:
    if not kind.factored:
        return Moments(whole=jnp.zeros(leaf.shape, leaf.dtype))
    columns = (*leaf.shape[: kind.num_stacking], kind.num_columns)
    return Moments(jnp.zeros(leaf.shape[:-1], leaf.dtype), jnp.zeros(columns, leaf.dtype))


def _direction(
    grad: Array, old: Moments, kind: Matrices, kept: Float[Array, ""]
) -> tuple[Array, Moments]:
    """The gradient over the root of its second moments, and those moments."""
    square = grad * grad + SMALLEST

    def moved(moment: Array, now: Array) -> Array:
        return (kept * moment + (1.0 - kept) * now).astype(grad.dtype)

    if old.whole is not None:
        whole = moved(old.whole, square)
        return grad * whole**-0.5, Moments(whole=whole)
    assert old.rows is not None and old.columns is not None
    rows = moved(old.rows, kind.mean(square, over="columns")[..., 0])
    now = kind.mean(square, over="rows")
    columns = moved(old.columns, now.reshape(old.columns.shape))
    wide = rows[..., None]
    scale = (wide / kind.mean(wide, over="rows")) ** -0.5
    return grad * scale * columns.reshape(now.shape) ** -0.5, Moments(rows, columns)


def _rms(values: Array, kind: Matrices) -> Array:
    return jnp.sqrt(kind.mean(values * values, over="all"))
