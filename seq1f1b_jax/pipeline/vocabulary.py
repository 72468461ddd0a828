"""The two vocabulary tables: sharded over `pipe` at rest, whole where they are used.

Only the first rank looks tokens up and only the last one multiplies by the head. Every rank
allocates what the worst rank needs, so for more than one stage one buffer serves as the embedding
on rank 0 and as the head on the last rank, with one gradient accumulator. Moving the shards there,
and the gradients back, is one all-to-all each way, once per step.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from seq1f1b_jax.pipeline.layout import AXIS, Layout

Tables = dict[str, Float[Array, "vocab_size d"]]


def table_names(layout: Layout) -> tuple[str, str]:
    """Under which names a rank finds its (embedding, head)."""
    if layout.num_stages == 1 and not layout.tied:
        return "embedding", "head"
    return "shared", "shared"


def gather_tables(
    embedding: Float[Array, "1 rows d"], head: Float[Array, "1 rows d"] | None, layout: Layout
) -> Tables:
    """Whole tables from shards: `shared` is the embedding on rank 0, the head on the last rank.

    On ranks between them it is zero.
    """
    if layout.num_stages == 1:
        tables = {table_names(layout)[0]: embedding[0]}
        return tables if layout.tied else {**tables, "head": head[0]}
    send = jnp.zeros((layout.num_stages, *embedding.shape[1:]), embedding.dtype)
    send = send.at[0].set(embedding[0])
    send = send.at[-1].set((embedding if layout.tied else head)[0])
    received = lax.all_to_all(send, AXIS, split_axis=0, concat_axis=0)
    return {"shared": received.reshape(-1, embedding.shape[-1])[: layout.vocab_size]}


def scatter_gradients(
    tables: Tables, layout: Layout
) -> tuple[Float[Array, "1 rows d"], Float[Array, "1 rows d"] | None]:
    """Transpose of `gather_tables`: gradients of this rank's shards of (embedding, head)."""
    if layout.num_stages == 1:
        embedding = tables[table_names(layout)[0]][None]
        return embedding, None if layout.tied else tables["head"][None]
    table = tables["shared"]
    padding = layout.num_stages * layout.table_rows - layout.vocab_size
    send = jnp.pad(table, ((0, padding), (0, 0)))
    send = send.reshape(layout.num_stages, layout.table_rows, -1)
    received = lax.all_to_all(send, AXIS, split_axis=0, concat_axis=0)
    embedding, head = received[:1], received[-1:]
    return (embedding + head, None) if layout.tied else (embedding, head)
