"""A chunk in two halves, so that one half's collectives run beside the other half's matmuls.

Where the devices of `tensor` share the tokens of the residual stream, a layer begins and ends each
sublayer with a collective that the next matmul waits for. Its functions are token-wise, so they may
be called on either half of the tokens; nothing then orders a half's gather behind the other's
matmuls, and the compiler's scheduler puts one beside the other.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from seq1f1b_jax.ops.tensor import TOKENS, TensorAxis
from seq1f1b_jax.pipeline.options import ExecutorOptions
from seq1f1b_jax.pipeline.stage import Stage, Tree, of_kind

NUM_PARTS = 2


def tensor_axis(size: int, options: ExecutorOptions) -> TensorAxis:
    """How layers are sharded over `size` devices."""
    return TensorAxis(size, options.sequence_parallel, NUM_PARTS if options.halves else 1)


def _of_stage(name: str) -> Any:
    return property(lambda self: getattr(self.stage, name))


@dataclass(frozen=True)
class Halves:
    """A stage whose `pre` and `post` run on two halves of a chunk's tokens.

    Each half is a group of consecutive tokens that the devices share (`TensorAxis.groups`). All
    else is the stage's own.

    Attributes:
      stage: the model as one device of the axis `tensor` sees it.
    """

    stage: Stage

    num_layers = _of_stage("num_layers")
    vocab_size = _of_stage("vocab_size")
    model_dim = _of_stage("model_dim")
    num_heads = _of_stage("num_heads")
    num_kv_heads = _of_stage("num_kv_heads")
    head_dim = _of_stage("head_dim")
    tied = _of_stage("tied")
    init = _of_stage("init")
    embed = _of_stage("embed")
    final = _of_stage("final")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stage, name)

    def of_kind(self, kind: Hashable) -> "Halves":
        """See `pipeline.stage.kinds_of`."""
        return Halves(of_kind(self.stage, kind))

    def context(self, positions: Int[Array, "*B T"]) -> tuple[Tree, ...]:
        """That of each half."""
        return tuple(map(self.stage.context, jnp.split(positions, NUM_PARTS, axis=-1)))

    def pre(self, layer: Tree, x: Float[Array, "B t d"], context: tuple[Tree, ...]):
        """Queries, keys and values of both halves, in order."""
        halves = zip(_apart(layer), jnp.split(x, NUM_PARTS, axis=TOKENS), context, strict=True)
        found = [self.stage.pre(*half) for half in halves]
        return tuple(jnp.concatenate(parts, axis=TOKENS) for parts in zip(*found, strict=True))

    def post(self, layer: Tree, x: Float[Array, "B t d"], attended: Float[Array, "B T Hq Dv"]):
        """The layer's output for the own tokens of both halves."""
        found = self._each(self.stage.post, layer, x, attended)
        return jnp.concatenate(found, axis=TOKENS)

    def routed(self, layer: Tree, x: Float[Array, "B t d"], attended: Float[Array, "B T Hq Dv"]):
        """Likewise, with the sums of what a router says of both."""
        found = self._each(self.stage.routed, layer, x, attended)  # type: ignore[attr-defined]
        y, sums = zip(*found, strict=True)
        return jnp.concatenate(y, axis=TOKENS), jax.tree.map(lambda *parts: sum(parts), *sums)

    def _each(self, function: Callable, layer: Tree, *values: Array) -> list[Any]:
        """A function of both halves of the tokens."""
        tokens = (jnp.split(value, NUM_PARTS, axis=TOKENS) for value in values)
        return [function(*half) for half in zip(_apart(layer), *tokens, strict=True)]


def _apart(layer: Tree) -> list[Tree]:
    """The weights, by a name of their own for each half.

    XLA merges matmuls that share an operand; both halves would wait for one collective again.
    """
    return [layer, *(_alias(layer) for _ in range(NUM_PARTS - 1))]


@jax.custom_vjp
def _alias(layer: Tree) -> Tree:
    """The same values, which XLA does not know to be the same; gradients pass as they are."""
    return lax.optimization_barrier(layer)


_alias.defvjp(lambda layer: (_alias(layer), None), lambda _, gradients: (gradients,))
