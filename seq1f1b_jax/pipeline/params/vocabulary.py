"""The two vocabulary tables: sharded over `pipe` at rest, whole where they are used.

Only the first rank looks tokens up and only the last one multiplies by the head. Every rank
allocates what the worst rank needs, so for more than one stage one buffer serves as the embedding
on rank 0 and as the head on the last rank, with one gradient accumulator. Moving the shards there,
and the gradients back, is one all-to-all each way, once per step.

Over the mesh axis `tensor` the vocabulary is sharded also where it is used: each device looks up
the tokens of its part, and the rows are summed over devices.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.axes import PIPE, TENSOR
from seq1f1b_jax.ops.tensor import TensorAxis, own_start
from seq1f1b_jax.pipeline.params.layout import Layout

Tables = dict[str, Array]
"""By name, `[vocab_size, d]` or a device's part of it; beside them there may be others."""


def table_names(layout: Layout) -> tuple[str, str]:
    """Names of a rank's (embedding, head)."""
    if layout.num_ranks == 1 and not layout.tied:
        return "embedding", "head"
    return "shared", "shared"


def gather_tables(
    embedding: Float[Array, "1 rows d"], head: Float[Array, "1 rows d"] | None, layout: Layout
) -> Tables:
    """Whole tables from shards: `shared` is the embedding on rank 0, the head on the last rank.

    On ranks between them it is zero.
    """
    if layout.num_ranks == 1:
        tables = {table_names(layout)[0]: embedding[0]}
        return tables if head is None else {**tables, "head": head[0]}
    send = jnp.zeros((layout.num_ranks, *embedding.shape[1:]), embedding.dtype)
    send = send.at[0].set(embedding[0])
    send = send.at[-1].set((embedding if head is None else head)[0])
    received = lax.all_to_all(send, PIPE, split_axis=0, concat_axis=0)
    return {"shared": received.reshape(-1, embedding.shape[-1])[: layout.vocab_part]}


def scatter_gradients(
    tables: Tables, layout: Layout
) -> tuple[Float[Array, "1 rows d"] | None, Float[Array, "1 rows d"] | None]:
    """Transpose of `gather_tables`: gradients of this rank's shards of (embedding, head).

    `None` for a table that has none: what is in it is frozen.
    """
    if layout.num_ranks == 1:
        embedding, head = (tables.get(name) for name in table_names(layout))
        head = None if layout.tied or head is None else head[None]
        return None if embedding is None else embedding[None], head
    if "shared" not in tables:
        return None, None
    table = tables["shared"]
    rows = layout.shard_rows(layout.vocab_size)
    padding = layout.num_ranks * rows - layout.vocab_part
    send = jnp.pad(table, ((0, padding), (0, 0))).reshape(layout.num_ranks, rows, -1)
    received = lax.all_to_all(send, PIPE, split_axis=0, concat_axis=0)
    embedding, head = received[:1], received[-1:]
    return (embedding + head, None) if layout.tied else (embedding, head)


def look_up(
    table: Float[Array, "V d"], tokens: Int[Array, "B T"], tensor: TensorAxis
) -> Float[Array, "B t d"]:
    """Rows of the embedding for this device's part of the tokens of the residual stream."""
    if tensor.size == 1:
        return table[tokens]
    rows = _own_rows(table, tokens)
    part = jnp.take(table, rows, axis=0, mode="fill", fill_value=0)
    return tensor.sum_tokens(part) if tensor.sequence else lax.psum(part, TENSOR)


def add_rows(
    table: Float[Array, "V d"],
    tokens: Int[Array, "B T"],
    gradients: Float[Array, "B t d"],
    tensor: TensorAxis,
) -> Float[Array, "V d"]:
    """Transpose of `look_up`: add the rows' gradients to those of the table, in place."""
    gradients = gradients.astype(table.dtype)
    if tensor.size == 1:
        return table.at[tokens].add(gradients)
    gradients = tensor.all_tokens(gradients)
    return table.at[_own_rows(table, tokens)].add(gradients, mode="drop")


def _own_rows(table: Float[Array, "V d"], tokens: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Row of every token in this device's part of the vocabulary; beyond its end if elsewhere."""
    count = table.shape[0]
    rows = tokens - own_start(count)
    return jnp.where(rows < 0, count, rows)
