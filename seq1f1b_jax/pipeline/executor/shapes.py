"""Shapes of what one rank computes with: its layers, the small trees, and the tables it gathers."""

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct as Shape

from seq1f1b_jax.pipeline.params.layout import Layout
from seq1f1b_jax.pipeline.params.positions import take_out
from seq1f1b_jax.pipeline.params.vocabulary import table_names
from seq1f1b_jax.pipeline.stage import Params, Stage, Tree, once_per_stage


def weight_shapes(stage: Stage, layout: Layout, *, dtype: jnp.dtype, unrolled: bool) -> Params:
    """Weights of one rank in the compute dtype, without the tables.

    Leaves of the layers are `[stages_per_rank * max_layers, ...]`; unrolled, `layers` is a tuple of
    trees, one for each layer.

    Args:
      stage: the model as one device sees it.
      layout: which layers and tables there are.
      dtype: to compute in.
      unrolled: see `Program`.
    """
    params, layer = _params(stage), layer_shapes(stage, dtype=dtype)
    first, _ = take_out(params.first, dict(layout.position_tables))
    count = layout.rank_layers
    stacked = jax.tree.map(lambda leaf: Shape((count, *leaf.shape), dtype), layer)
    small = jax.tree.map(lambda leaf: Shape(leaf.shape, dtype), (first, params.last))
    return Params((layer,) * count if unrolled else stacked, *small, embedding=None, head=None)


def layer_shapes(stage: Stage, *, dtype: jnp.dtype) -> Tree:
    """One layer's weights in the compute dtype."""
    return jax.tree.map(lambda leaf: Shape(leaf.shape[1:], dtype), _params(stage).layers)


def table_shapes(stage: Stage, layout: Layout, *, dtype: jnp.dtype) -> dict[str, Shape]:
    """The tables, or the parts of them, that a device holds during a step: `chunk.Inputs`."""
    tables = take_out(_params(stage).first, dict(layout.position_tables))[1]
    shapes = dict.fromkeys(table_names(layout), (layout.vocab_part, stage.model_dim))
    for name, leaf in tables.items():
        shapes[name] = (layout.part_rows(len(leaf)), *leaf.shape[1:])
    return {name: Shape(shape, dtype) for name, shape in shapes.items()}


@once_per_stage
def _params(stage: Stage) -> Params:
    """Asked for some 30 times in the set-up of a run; a trace takes a twentieth of a second."""
    return jax.eval_shape(stage.init, jax.random.key(0))
