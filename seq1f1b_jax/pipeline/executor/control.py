"""Branches that copy nothing, and the loop over the layers of a stage."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import jax
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


class LayerWork(NamedTuple):
    """What an action does in one layer: fetch values that have waited, compute, store values.

    Attributes:
      runs: `(layer, unit, value, fetched, state) -> (value, kept, state)`, of each kind of layer.
      fetch: `(layer, unit, state, *, on_host) -> fetched`.
      store: `(layer, unit, kept, state, *, on_host) -> state`; `kept` is a dict by name.
      kept: by name, something with the shape and dtype of what is stored.
    """

    runs: Sequence[Callable]
    fetch: Callable = lambda layer, unit, state, *, on_host: {}
    store: Callable = lambda layer, unit, kept, state, *, on_host: state
    kept: Mapping[str, Any] = MappingProxyType({})


def over_layers(
    program: Program,
    unit: Any,
    work: LayerWork,
    value: V,
    state: State,
    *,
    reverse: bool = False,
) -> tuple[V, State]:
    """Work through the layers of a stage.

    Copies from and to host memory run beside the matmuls of other layers: what a layer needs is
    fetched before its neighbour computes, what it leaves is stored while the next one does.

    Unrolled, the index of a layer is a Python int, and layers that only some stages have are loops
    of zero or one trips. A barrier keeps layers apart: otherwise XLA:GPU puts off the weight
    gradients of a layer and reads ahead for the next, and holds the values of several. It does not
    hold the whole state, which XLA's estimates of memory would count once more per layer.

    Args:
      program: static facts.
      unit: what is worked on; `stage` is one of its traced scalars.
      work: what to do in a layer.
      value: what goes from layer to layer, or `None`.
      state: buffers of this rank.
      reverse: whether the last layer is first.
    """
    if program.unrolled:
        return _unrolled(program, unit, work, value, state, reverse=reverse)
    count = program.num_layers_of(unit.stage)
    num_host = program.num_host_layers
    if not num_host:
        return _on_device(program, work, unit, (value, state), (0, count), reverse=reverse)
    has_others = num_host < program.layout.max_layers
    if not has_others:
        num_host = count
    elif num_host > min(program.layout.layers_per_stage):
        num_host = jnp.minimum(num_host, count)
    fetched = work.fetch(num_host - 1 if reverse else 0, unit, state, on_host=True)
    if has_others and reverse:
        others = (num_host, count)
        value, state = _on_device(program, work, unit, (value, state), others, reverse=True)
        # what is fetched is not unpacked before; a `W` has no value that could say so
        fetched, value = lax.optimization_barrier((fetched, value))
    carry = (value, state)
    value, state = _on_host(program, work, unit, fetched, carry, num_host, reverse=reverse)
    if has_others and not reverse:
        others = (num_host, count)
        value, state = _on_device(program, work, unit, (value, state), others, reverse=False)
    return value, state


def _on_device(program: Program, work: LayerWork, unit, carry, layers, *, reverse: bool):
    """A loop over layers whose values wait on the device."""
    first, end = layers

    def body(index, carry):
        layer = first + end - 1 - index if reverse else index
        return _one_layer(program, work, layer, unit, None, carry, on_host=False)

    return lax.fori_loop(first, end, body, carry)


def _on_host(program: Program, work: LayerWork, unit, fetched, carry, count, *, reverse: bool):
    """A loop over layers whose values wait in host memory.

    An iteration stores what the one before left and fetches what the next one needs. At the ends
    there is none: what the first one stores is overwritten, what the last one fetches not used.
    """
    if isinstance(count, int) and count == 1:
        return _one_layer(program, work, 0, unit, fetched, carry, on_host=True)

    def layer(index):
        index = jnp.clip(index, 0, count - 1)
        return count - 1 - index if reverse else index

    def body(index, carry):
        fetched, kept, (value, state) = carry
        state = work.store(layer(index - 1), unit, kept, state, on_host=True)
        following = work.fetch(layer(index + 1), unit, state, on_host=True)
        carry = value, kept, state
        for run, holds in _runs(program, work, unit, layer(index)):

            def act(carry, run=run):
                value, _, state = carry
                return run(layer(index), unit, value, fetched, state)

            carry = run_if(holds, act, carry)
        value, kept, state = carry
        return following, kept, (value, state)

    kept = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in work.kept.items()}
    _, kept, (value, state) = lax.fori_loop(0, count, body, (fetched, kept, carry))
    return value, work.store(layer(count - 1), unit, kept, state, on_host=True)


def _unrolled(program: Program, unit, work: LayerWork, value, state: State, *, reverse: bool):
    everywhere, count = min(program.layout.layers_per_stage), program.num_layers_of(unit.stage)
    order = list(range(program.layout.max_layers))[:: -1 if reverse else 1]
    fetched = None
    for layer, following in zip(order, [*order[1:], None], strict=True):
        ahead = None
        if following is not None and following < min(everywhere, program.num_host_layers):
            ahead = work.fetch(following, unit, state, on_host=True)

        def act(carry, layer=layer, unit=unit, fetched=fetched):
            on_host = layer < program.num_host_layers
            return _one_layer(program, work, layer, unit, fetched, carry, on_host=on_host)

        value, state = run_if(
            True if layer < everywhere else layer < count, act, (value, state)
        )
        unit, value, state = _barrier(layer, unit, value, state)
        if jax.tree.leaves(ahead):
            ahead, value = lax.optimization_barrier((ahead, value))  # see `over_layers`
        fetched = ahead
    return value, state


def _one_layer(program: Program, work: LayerWork, layer, unit, fetched, carry, *, on_host: bool):
    for run, holds in _runs(program, work, unit, layer):

        def act(carry, run=run):
            value, state = carry
            ready = work.fetch(layer, unit, state, on_host=on_host) if fetched is None else fetched
            value, kept, state = run(layer, unit, value, ready, state)
            return value, work.store(layer, unit, kept, state, on_host=on_host)

        carry = run_if(holds, act, carry)
    return carry


def _runs(program: Program, work: LayerWork, unit, layer):
    """What may run in a layer, each with whether it does."""
    return [(work.runs[kind], holds) for kind, holds in program.kind_table.at(unit.stage, layer)]


def _barrier(layer: int, unit: U, value: V, state: State) -> tuple[U, V, State]:
    """What follows waits for the value and for the layer's weight gradients."""
    if state.grads is None:
        unit, value = lax.optimization_barrier((unit, value))
        return unit, value, state
    layers = state.grads.layers
    unit, value, own = lax.optimization_barrier((unit, value, layers[layer]))
    layers = (*layers[:layer], own, *layers[layer + 1 :])
    return unit, value, state._replace(grads=state.grads._replace(layers=layers))
