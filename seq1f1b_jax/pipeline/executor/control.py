"""Branches that copy nothing, and the loop over the layers of a stage."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax.numpy as jnp
from jax import Array, lax

from seq1f1b_jax.pipeline.executor.program import Program

T = TypeVar("T")


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
    program: Program, stage: Array, step: Callable[[Any, T], T], carry: T, *, reverse: bool = False
) -> T:
    """`carry = step(layer, carry)` for the layers of a stage, first to last or in reverse.

    Unrolled, the index of a layer is a Python int, and layers that only some stages have are loops
    of zero or one trips. A barrier keeps them apart: XLA:GPU read the residuals of several layers
    before it began the first, and so held them all.
    """
    count = program.num_layers_of(stage)
    if not program.unrolled:

        def body(index, carry):
            return step(count - 1 - index if reverse else index, carry)

        return lax.fori_loop(0, count, body, carry)
    layers = range(program.layout.max_layers)
    for layer in reversed(layers) if reverse else layers:
        everywhere = layer < min(program.layout.layers_per_stage)
        carry = run_if(True if everywhere else layer < count, partial(step, layer), carry)
        carry = lax.optimization_barrier(carry)
    return carry
