"""Branches that copy nothing, and the loop over the layers of a stage."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax.numpy as jnp
from jax import Array, lax

from seq1f1b_jax.pipeline.executor.buffers import State
from seq1f1b_jax.pipeline.executor.program import Program

T = TypeVar("T")
U = TypeVar("U", bound=Any)
V = TypeVar("V")


def run_if(predicate: bool | Array, action: Callable[[T], T], state: T) -> T:
    """`action(state)` where `predicate` holds, else `state`, without copying it.

    A `lax.cond` copies the buffers that pass through it. A loop that runs zero times or once
    updates its carry in place. The condition becomes a literal `False` in the body, so XLA proves
    "at most once"; with a counter instead it hoisted whole matmuls out of the loop and ran them
    every tick.
    """
    if isinstance(predicate, bool):
        return action(state) if predicate else state
    _, state = lax.while_loop(
        lambda carry: carry[0],
        lambda carry: (jnp.asarray(False), action(carry[1])),
        (predicate, state),
    )
    return state


def over_layers(
    program: Program,
    unit: U,
    step: Callable[[Any, U, V, State], tuple[V, State]],
    value: V,
    state: State,
    *,
    reverse: bool = False,
) -> tuple[V, State]:
    """`value, state = step(layer, unit, value, state)` for the layers of a stage.

    Unrolled, the index of a layer is a Python int, and layers that only some stages have are loops
    of zero or one trips. A barrier keeps layers apart: otherwise XLA:GPU puts off the weight
    gradients of a layer and reads ahead for the next, and holds the values of several. It does not
    hold the whole state, which XLA's estimates of memory would count once more per layer.

    Args:
      program: static facts.
      unit: what is worked on; `stage` is one of its traced scalars.
      step: a layer.
      value: what goes from layer to layer, or `None`.
      state: buffers of this rank.
      reverse: whether the last layer is first.
    """
    count = program.num_layers_of(unit.stage)
    if not program.unrolled:

        def body(index, carry):
            return step(count - 1 - index if reverse else index, unit, *carry)

        return lax.fori_loop(0, count, body, (value, state))
    layers = range(program.layout.max_layers)
    for layer in reversed(layers) if reverse else layers:
        everywhere = layer < min(program.layout.layers_per_stage)
        value, state = run_if(
            True if everywhere else layer < count,
            lambda carry, layer=layer, unit=unit: step(layer, unit, *carry),
            (value, state),
        )
        unit, value, state = _barrier(layer, unit, value, state)
    return value, state


def _barrier(layer: int, unit: U, value: V, state: State) -> tuple[U, V, State]:
    """What follows waits for the value and for the layer's weight gradients."""
    if state.grads is None:
        unit, value = lax.optimization_barrier((unit, value))
        return unit, value, state
    layers = state.grads.layers
    unit, value, own = lax.optimization_barrier((unit, value, layers[layer]))
    layers = (*layers[:layer], own, *layers[layer + 1 :])
    return unit, value, state._replace(grads=state.grads._replace(layers=layers))
