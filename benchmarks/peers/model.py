"""The project's model as the JAX peers call it: embedding, a run of layers, the sum of losses.

Peers share weights, functions and attention with our step; only the parallelism is theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.loss import cross_entropy_reference
from seq1f1b_jax.pipeline.params.positions import embed
from seq1f1b_jax.pipeline.stage import Params, Stage


@dataclass(frozen=True)
class Model:
    """A stage with its attention, and whether autodiff recomputes layers.

    Attributes:
      stage: the model's functions.
      attention: `(q, k, v) -> out`, differentiable.
      remat: whether a layer keeps its input only and is recomputed in the backward.
    """

    stage: Stage
    attention: Callable[[Array, Array, Array], Array]
    remat: bool = False

    def embed(self, params: Params, tokens: Int[Array, "B T"]) -> Float[Array, "B T d"]:
        """Input of the first layer."""
        rows = jnp.take(params.embedding, tokens, axis=0)
        positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)
        return embed(self.stage, params.first, rows, positions)

    def layers(
        self, weights: Any, x: Float[Array, "B T d"], *, gather: Callable = lambda w: w
    ) -> Float[Array, "B T d"]:
        """Run layers, stacked along the first dim of `weights`.

        Args:
          weights: of the layers.
          x: input of the first of them.
          gather: makes the whole weights of a layer from what a device holds of them.
        """
        context = self.stage.context(jnp.arange(x.shape[1], dtype=jnp.int32))

        def layer(x, weights):
            weights = gather(weights)
            q, k, v = self.stage.pre(weights, x, context)
            return self.stage.post(weights, x, self.attention(q, k, v)), None

        if self.remat:
            layer = jax.checkpoint(layer, prevent_cse=False)
        return jax.lax.scan(layer, x, weights)[0]

    def loss_sum(
        self, params: Params, y: Float[Array, "B T d"], targets: Int[Array, "B T"]
    ) -> Float[Array, ""]:
        """Sum of token losses from the output of the last layer."""
        head = params.embedding if params.head is None else params.head
        return cross_entropy_reference(self.stage.final, params.last, head, y, targets)
