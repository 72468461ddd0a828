"""Branches that copy nothing."""

from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
from jax import Array, lax

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
