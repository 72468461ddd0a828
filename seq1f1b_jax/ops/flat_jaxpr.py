"""A function as a flat list of equations: traced with all calls opened, evaluated in part."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax.extend import core
from jax.extend.core import Literal

_CALLS = frozenset(
    "jit pjit closed_call core_call remat remat2 checkpoint custom_jvp_call custom_vjp_call".split()
)
"""Primitives that only call a jaxpr; they are opened so that their equations can be sorted."""


class Graph:
    """The equations of a flat jaxpr as a graph of variables."""

    def __init__(self, jaxpr) -> None:
        self.jaxpr = jaxpr
        self.producer = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}

    def ancestors(self, variables: Iterable) -> set:
        """The variables and all that they are computed from."""
        seen, todo = set(), list(variables)
        while todo:
            var = todo.pop()
            if isinstance(var, Literal) or var in seen:
                continue
            seen.add(var)
            if var in self.producer:
                todo += self.producer[var].invars
        return seen

    def reachable(self, start: Iterable) -> set:
        """The variables and all that is computed from them."""
        reached = set(start)
        for eqn in self.jaxpr.eqns:
            if any(not isinstance(v, Literal) and v in reached for v in eqn.invars):
                reached.update(eqn.outvars)
        return reached

    def evaluate(self, known: dict, wanted: Sequence) -> list:
        """Values of variables from those of others, by the equations between them."""
        needed, todo = set(), list(wanted)
        while todo:
            var = todo.pop()
            if isinstance(var, Literal) or var in known or var in needed:
                continue
            needed.add(var)
            todo += self.producer[var].invars
        equations = [e for e in self.jaxpr.eqns if any(var in needed for var in e.outvars)]
        return evaluate(self.jaxpr, equations, known, wanted)


def flat_jaxpr(function: Callable, *arguments: Any, environment: Sequence[tuple[str, int]]):
    """The jaxpr of a function with all calls opened, and the structure of its result.

    Args:
      function: what is traced.
      arguments: shapes of its arguments.
      environment: mesh axes that it uses, with their sizes.
    """
    trace = jax.make_jaxpr(function, axis_env=environment, return_shape=True)
    closed, shapes = trace(*arguments)

    def flat(*values):
        return _run(closed.jaxpr, closed.consts, values)

    retrace = jax.make_jaxpr(flat, axis_env=environment)
    return retrace(*jax.tree.leaves(arguments)), jax.tree.structure(shapes)


def evaluate(jaxpr, equations: Sequence, known: dict, wanted: Sequence) -> list:
    """Values of `wanted` by some equations of a jaxpr."""
    made = {var for eqn in equations for var in eqn.outvars}
    used = {v: None for e in equations for v in e.invars if not isinstance(v, Literal)}
    inputs = [var for var in used if var not in made]
    outputs = [var for var in wanted if var in made] if made else []
    part = jaxpr.replace(constvars=[], invars=inputs, outvars=outputs, eqns=list(equations))
    values = core.jaxpr_as_fun(core.ClosedJaxpr(part, ()))(*(known[var] for var in inputs))
    known = known | dict(zip(outputs, values, strict=True))
    return [value_of(var, known) for var in wanted]


def value_of(var, known: dict):
    """The value of a variable, or of a literal."""
    return var.val if isinstance(var, Literal) else known[var]


def _run(jaxpr, consts: Sequence, arguments: Sequence) -> list:
    """Evaluate a jaxpr, and the jaxprs that it calls, equation by equation."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))
    for eqn in jaxpr.eqns:
        if (inner := _called(eqn)) is None:
            outputs = evaluate(jaxpr, [eqn], known, eqn.outvars)
        else:
            outputs = _run(*inner, [value_of(v, known) for v in eqn.invars])
        known.update(zip(eqn.outvars, outputs, strict=True))
    return [value_of(v, known) for v in jaxpr.outvars]


def _called(eqn) -> tuple[Any, Sequence] | None:
    """Jaxpr and constants of a call."""
    if eqn.primitive.name not in _CALLS:
        return None
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return (inner.jaxpr, inner.consts) if isinstance(inner, core.ClosedJaxpr) else (inner, ())
