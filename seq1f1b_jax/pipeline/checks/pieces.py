"""The functions of a stage one by one, each with the shapes that it takes and must return."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import ShapeDtypeStruct as Shape

from seq1f1b_jax.pipeline.params.positions import embed
from seq1f1b_jax.pipeline.stage import Params, Stage, Tree, value_dim_of

SEQUENCES, TOKENS = 2, 128
"""Of the inputs; 128 tokens suit kernels that work in blocks."""
POSITIONS = Shape((TOKENS,), jnp.int32)
RESTARTED = Shape((SEQUENCES, TOKENS), jnp.int32)
"""Positions where packed documents restart them."""


class Piece(NamedTuple):
    """A function of a stage on its own.

    Attributes:
      name: of the function, with its class.
      call: `(weights, positions, *inputs)`, inputs and outputs `[B, T, ...]`.
      weights: shapes of its parameters.
      positions: their shape.
      inputs: shapes by name.
      outputs: shapes that it must return, by name.
    """

    name: str
    call: Callable
    weights: Tree
    positions: Shape
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Shapes of the arguments of `call`."""
        return (self.weights, self.positions, *self.inputs.values())

    @property
    def results(self) -> list[str]:
        """Names of the results of `with_gradients`."""
        return [*self.outputs, *(f"the gradient of {name}" for name in self.inputs)]

    @property
    def arguments_with_cotangents(self) -> tuple[Any, ...]:
        """Shapes of the arguments of `with_gradients`."""
        first, *others = self.outputs.values()
        cotangents = (first, *others) if others else first
        return self.weights, self.positions, tuple(self.inputs.values()), cotangents

    def with_gradients(self, weights: Tree, positions: Any, inputs: tuple, cotangents: Any):
        """Outputs, and the gradients of the inputs."""
        outputs, vjp = jax.vjp(lambda *inputs: self.call(weights, positions, *inputs), *inputs)
        return outputs, vjp(jax.tree.map(lambda d, y: d.astype(y.dtype), cotangents, outputs))


def pieces_of(stage: Stage, params: Params, dtype: jnp.dtype) -> list[Piece]:
    """The functions between embedding and head.

    Args:
      stage: the model.
      params: shapes of its parameters.
      dtype: in which they compute.
    """

    def cast(leaf: Shape, *, drop: int = 0) -> Shape:
        return Shape(leaf.shape[drop:], dtype)

    def heads(number: int, width: int = stage.head_dim) -> Shape:
        return Shape((SEQUENCES, TOKENS, number, width), dtype)

    def pre(layer, positions, x):
        return stage.pre(layer, x, stage.context(positions))

    def of_positions(at: Shape, text: str = "") -> list[Piece]:
        return [
            Piece(
                f"{name}.embed{text}", lambda w, at, x: embed(stage, w, x, at), first, at, {"x": x},
                {"x": x},
            ),
            Piece(f"{name}.pre{text}", pre, layer, at, {"x": x}, {"q": q, "k": k, "v": v}),
        ]  # fmt: skip

    name = type(stage).__name__
    x = Shape((SEQUENCES, TOKENS, stage.model_dim), dtype)
    value_dim = value_dim_of(stage)
    q, k, v = (
        heads(stage.num_heads), heads(stage.num_kv_heads), heads(stage.num_kv_heads, value_dim)
    )
    attended = heads(stage.num_heads, value_dim)
    layer = jax.tree.map(partial(cast, drop=1), params.layers)
    first, last = (jax.tree.map(cast, tree) for tree in (params.first, params.last))
    return [
        *of_positions(POSITIONS),
        Piece(
            f"{name}.post", lambda w, at, x, out: stage.post(w, x, out), layer, POSITIONS,
            {"x": x, "attended": attended}, {"x": x},
        ),
        Piece(
            f"{name}.final", lambda w, at, y: stage.final(w, y), last, POSITIONS, {"y": x}, {"y": x}
        ),
        *of_positions(RESTARTED, " with positions [B, T]"),
    ]  # fmt: skip
