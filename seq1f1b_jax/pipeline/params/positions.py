"""Tables of learned positions: sharded over `pipe` at rest, whole on the stage that looks them up.

One of 65,536 positions of width 6144 is 1.6 GB, and with its moments and its accumulator four times
that. So a stage may name such tables (`stage.position_tables_of`): they are laid out as those of
the vocabulary are, gathered once per step in the compute dtype, and looked up by the executor;
their gradients are added row by row, and each shard gets its sum once per step. Only the first
stage looks up, but every rank runs the same program: it allocates what that one needs, and adds
zeros.

Over the mesh axis `tensor` each device looks up the positions of its part of the rows, as
`vocabulary.look_up` does.
"""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.axes import PIPE
from seq1f1b_jax.ops.tensor import TensorAxis
from seq1f1b_jax.pipeline.params import vocabulary
from seq1f1b_jax.pipeline.params.layout import Layout
from seq1f1b_jax.pipeline.stage import Stage, Tree, leaf_name, position_tables_of


def take_out(first: Tree, names: Collection[str]) -> tuple[Tree, dict[str, Any]]:
    """`Params.first` with `None` in the places of its tables, and these by name."""
    leaves = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(first)}
    rest = jax.tree.map_with_path(lambda path, leaf: None if _name(path) in names else leaf, first)
    return rest, {name: leaves[name] for name in names}


def put_in(rest: Tree, tables: Mapping[str, Any]) -> Tree:
    """The inverse; or with something else in the places of the tables, such as rows of them."""
    return jax.tree.map_with_path(
        lambda path, leaf: tables.get(_name(path)) if leaf is None else leaf, rest,
        is_leaf=lambda leaf: leaf is None,
    )


def _name(path: tuple) -> str:
    return f"first.{leaf_name(path)}"


def embed(
    stage: Stage, first: Tree, x: Float[Array, "B T d"], positions: Int[Array, "*B T"]
) -> Float[Array, "B T d"]:
    """`stage.embed` from whole tables; NaN beyond their rows, where indexing would clamp."""
    rest, tables = take_out(first, position_tables_of(stage))
    rows = {name: jnp.take(t, positions, axis=0, mode="fill") for name, t in tables.items()}
    return stage.embed(put_in(rest, rows), x, positions)


def gather(shard: Float[Array, "1 rows n"], layout: Layout, num_rows: int) -> Float[Array, "R n"]:
    """The whole table, or this device's part of it, from the shards of all ranks."""
    part = shard[0]
    if layout.num_ranks > 1:
        part = lax.all_gather(part, PIPE, tiled=True)
    return part[: layout.part_rows(num_rows)]


def scatter_gradient(
    part: Float[Array, "R n"], layout: Layout, num_rows: int
) -> Float[Array, "1 rows n"]:
    """Transpose of `gather`: the gradient of this rank's shard, summed over ranks."""
    if layout.num_ranks > 1:
        padding = layout.num_ranks * layout.shard_rows(num_rows) - len(part)
        part = lax.psum_scatter(jnp.pad(part, ((0, padding), (0, 0))), PIPE, tiled=True)
    return part[None]


def look_up(
    part: Float[Array, "R n"], positions: Int[Array, "*B T"], tensor: TensorAxis
) -> Float[Array, "*B t n"]:
    """Rows at the positions of this device's tokens of the residual stream.

    Args:
      part: from `gather`.
      positions: of all tokens of the chunk.
      tensor: how they are sharded.
    """
    rows = vocabulary.look_up(part, jnp.atleast_2d(positions), tensor)
    return rows.reshape(*positions.shape[:-1], *rows.shape[1:])


def add_rows(
    part: Float[Array, "R n"], positions: Int[Array, "*B T"], gradients: Float[Array, "*B t n"],
    tensor: TensorAxis,
) -> Float[Array, "R n"]:
    """Transpose of `look_up`: add the rows' gradients to those of the table, in place."""
    batched = gradients.reshape(-1, *gradients.shape[-2:])
    return vocabulary.add_rows(part, jnp.atleast_2d(positions), batched, tensor)
