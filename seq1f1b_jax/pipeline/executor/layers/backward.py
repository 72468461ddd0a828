"""The backward of one layer around its attention, on values: whole, or split into `I` and `W`.

    forward    x -> pre -> q, k, v -> attention -> out -> post -> y
    backward   dy -> post -> dx, dout -> attention -> dq, dk, dv -> pre -> dx

Both pieces are functions of what either half can read (`Kept`) and of what exists only while input
gradients are computed (`Given`). So the same functions serve the whole backward and its halves.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
from jaxtyping import Array

from seq1f1b_jax.ops.precision import accumulation_dtype
from seq1f1b_jax.ops.wide_gradients import widen
from seq1f1b_jax.pipeline.executor.layers import residuals
from seq1f1b_jax.pipeline.executor.layers.residuals import ArenaEntry, ResidualPlan
from seq1f1b_jax.pipeline.executor.layers.weight_split import SplitBackward, split_backward
from seq1f1b_jax.pipeline.params.trained import ALL, Trained
from seq1f1b_jax.pipeline.stage import Stage, Tree, routed_post, tensor_of, value_dim_of


class Kept(NamedTuple):
    """What stays readable until the unit's last action.

    Attributes:
      weights: of the layer.
      context: of the chunk (`Stage.context`).
      stored: the unit's entries of the residual ring, by name.
    """

    weights: Tree
    context: Tree
    stored: dict[str, Array]


class Given(NamedTuple):
    """What exists only while input gradients are computed.

    Attributes:
      values: other sources of residuals, by name: from the cache, or recomputed.
      cotangent: gradient of the piece's results.
    """

    values: dict[str, Array]
    cotangent: Tree


def post_backward(post: Callable, plan: ResidualPlan, trained: Trained, kept: Kept, given: Given):
    """`(weight gradients, (dx, dout))` from dy and the router's; dx goes around attention."""
    saved = kept.stored | given.values
    _, vjp = trained.vjp(post, kept.weights, saved["x"], saved["out"])
    d_weights, dx, dout = residuals.pull(plan.post, saved, vjp)(given.cotangent)
    return d_weights, (dx, dout)


def pre_backward(pre: Callable, plan: ResidualPlan, trained: Trained, kept: Kept, given: Given):
    """`(weight gradients, dx)` from (dq, dk, dv)."""
    saved = kept.stored | given.values
    _, vjp = trained.vjp(lambda w, a: pre(w, a, kept.context), kept.weights, saved["x"])
    return residuals.pull(plan.pre, saved, vjp)(given.cotangent)


class LayerBackward(NamedTuple):
    """The pieces of a layer's backward at one chunk length: `(kept, given) -> (d_weights, ...)`.

    `post` and `pre` are `post_backward` and `pre_backward`; weight gradients that are matmuls or
    sums are in the accumulation dtype (`wide_gradients`).
    """

    pre: Callable
    post: Callable


def layer_backward(
    stage: Stage,
    plan: ResidualPlan,
    layer: Tree,
    x: jax.ShapeDtypeStruct,
    *,
    policy: str,
    platform: str,
    own_positions: bool = False,
    trained: Trained = ALL,
) -> LayerBackward:
    """The backward of a layer for one chunk length.

    Args:
      stage: the model's functions.
      plan: residuals of this chunk length.
      layer: shapes of one layer's weights, in the compute dtype.
      x: shape and dtype of the layer's input on one device, `[B, t, d]`.
      policy: residual policy.
      platform: of the devices.
      own_positions: see `residuals.plan_residuals`.
      trained: the weights whose gradients there are.
    """
    pre, post = residuals.layer_functions(stage, policy)
    whole = LayerBackward(
        partial(pre_backward, pre, plan, trained), partial(post_backward, post, plan, trained)
    )
    dtype = accumulation_dtype(x.dtype)
    environment = tensor_of(stage).environment
    shapes = _arguments(stage, plan, layer, x, own_positions=own_positions)
    return LayerBackward(
        *(
            widen(
                backward, *arguments, dtype=dtype, platform=platform, environment=environment
            )
            for backward, arguments in zip(whole, shapes, strict=True)
        )
    )


def _arguments(
    stage: Stage, plan: ResidualPlan, layer: Tree, x: jax.ShapeDtypeStruct, *, own_positions: bool
) -> tuple[tuple[Kept, Given], tuple[Kept, Given]]:
    """Shapes of what the backwards of `pre` and of `post` take."""
    context = residuals.context_shape(stage, x, own_positions=own_positions)
    q, k, v = tensor_of(stage).shape_of(stage.pre, layer, x, context)
    kept = Kept(
        layer, context, {e.name: jax.ShapeDtypeStruct(e.shape, e.dtype) for e in plan.entries}
    )
    out = jax.ShapeDtypeStruct((*q.shape[:3], value_dim_of(stage)), q.dtype)
    values = {"q": q, "k": k, "v": v, "out": out}
    values = {name: value for name, value in values.items() if name not in kept.stored}
    _, sums = tensor_of(stage).shape_of(routed_post(stage), layer, x, out)
    return (kept, Given(values, (q, k, v))), (kept, Given(values, (x, sums)))


class LayerSplit(NamedTuple):
    """The halves of a layer's backward, and the entries that pass between them.

    Attributes:
      pre, post: the halves of the two pieces.
      entries: what `I` stores for `W`, by name; `pre.0` is the first that `pre` defers.
    """

    pre: SplitBackward
    post: SplitBackward
    entries: dict[str, ArenaEntry]


def split_layer(
    stage: Stage,
    plan: ResidualPlan,
    layer: Tree,
    x: jax.ShapeDtypeStruct,
    *,
    policy: str,
    platform: str,
    own_positions: bool = False,
    trained: Trained = ALL,
) -> LayerSplit:
    """Split the backward of a layer; arguments as for `layer_backward`.

    Raises:
      ValueError: what passes between the halves does not grow with the tokens.
    """
    whole = layer_backward(
        stage, plan, layer, x, policy=policy, platform=platform, own_positions=own_positions,
        trained=trained,
    )
    environment = tensor_of(stage).environment
    shapes = _arguments(stage, plan, layer, x, own_positions=own_positions)
    pieces = {
        name: split_backward(backward, *arguments, environment=environment)
        for name, backward, arguments in zip(whole._fields, whole, shapes, strict=True)
    }
    entries = {}
    for piece, halves in pieces.items():
        for index, shape in enumerate(halves.deferred):
            entry = ArenaEntry(f"{piece}.{index}", shape.shape, shape.dtype)
            if entry.size % x.shape[1]:
                raise ValueError(
                    f"the weight gradients of {piece} need {entry.shape} for {x.shape[1]} tokens, "
                    "which is no multiple of the tokens; use a schedule without W for this model"
                )
            entries[entry.name] = entry
    return LayerSplit(**pieces, entries=entries)
