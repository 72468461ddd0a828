"""Split a backward: what its input gradients need, and the matmuls that only weights need.

The backward of a linear map `y = x w` is two matmuls: `dx = dy w'`, which the stage before waits
for, and `dw = x' dy`, which nothing waits for. `split_backward` traces a backward and sorts its
equations:

- `I`, input half: all that input gradients are computed from, and every weight gradient that is no
  matmul (norm scales, biases: sums over tokens, cheap, of values that are here anyway);
- `W`, weight half: the matmuls that no input gradient needs (where forward values are recomputed,
  also theirs), and all that follows from them;
- what `W` reads and cannot recompute without a matmul from the unit's residuals, such as the
  gradients of the matmuls' outputs, is *deferred*: `I` stores it, `W` reads it. Of experts that is
  which of them a token has: how tokens are sorted by them follows from that.

So `I` and `W` together do the matmuls of the whole backward, each once. (A loop or a branch is one
equation: what both halves need of it, `W` reads.) Two calls of the vjp, each with half of its
results dropped, would do more: both need the gradients on the way to the first matmul.

Source: Zero Bubble Pipeline Parallelism (arXiv 2401.10241), section 2.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend import core
from jax.extend.core import Literal

from seq1f1b_jax.ops.flat_jaxpr import Graph, flat_jaxpr
from seq1f1b_jax.ops.router import EXPERTS
from seq1f1b_jax.pipeline.stage import Tree

_MATMULS = frozenset(("dot_general", "ragged_dot", "ragged_dot_general", "conv_general_dilated"))

_VIEWS = frozenset(
    "reshape transpose squeeze expand_dims convert_element_type broadcast_in_dim copy neg".split()
)
"""Cheap functions of one array: the smaller of argument and result is deferred."""


@dataclass(frozen=True, eq=False)
class SplitBackward:
    """The two halves of a backward function.

    Attributes:
      input_half: `(kept, given) -> (results, weight_grads, deferred)`: the results that are not
        weight gradients, the weight gradients that are no matmuls, by leaf index, and what the
        other half needs.
      weight_half: `(kept, deferred) -> weight_grads`, by leaf index.
      deferred: shapes and dtypes of what goes from one half to the other.
    """

    input_half: Callable[[Tree, Tree], tuple[Any, dict[int, jax.Array], list[jax.Array]]]
    weight_half: Callable[[Tree, Sequence[jax.Array]], dict[int, jax.Array]]
    deferred: tuple[jax.ShapeDtypeStruct, ...]


def split_backward(
    backward: Callable,
    kept: Tree,
    given: Tree,
    *,
    environment: Sequence[tuple[str, int]] = (),
) -> SplitBackward:
    """Trace a backward and split it.

    Args:
      backward: `(kept, given) -> (weight_grads, results)`, linear in the cotangents in `given`.
      kept: shapes of what both halves can read: weights, constants, the unit's residuals.
      given: shapes of what only the first half has: cotangents and recomputed values.
      environment: mesh axes that the backward uses, with their sizes.

    Returns:
      The halves. A weight gradient that is zero by structure appears in neither.
    """
    closed, out_tree = flat_jaxpr(backward, kept, given, environment=environment)
    graph = _Graph(closed.jaxpr)
    constants = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    num_kept = len(jax.tree.leaves(kept))
    kept_vars = closed.jaxpr.invars[:num_kept]
    weight_grads_tree, results_tree = out_tree.children()
    grads = closed.jaxpr.outvars[: weight_grads_tree.num_leaves]
    results = closed.jaxpr.outvars[weight_grads_tree.num_leaves :]

    # a gradient that depends on nothing is a zero; one may depend on no cotangent (an added loss)
    live = graph.reachable(closed.jaxpr.invars)
    needed = graph.with_siblings(graph.ancestors(results))
    late = graph.reachable_from_matmuls(graph.ancestors(grads) - needed)
    leaves = {i: v for i, v in enumerate(grads) if not isinstance(v, Literal) and v in live}
    weight_leaves = {i: v for i, v in leaves.items() if v in late}
    direct_leaves = {i: v for i, v in leaves.items() if v not in late}
    recomputed = graph.computable([*constants, *kept_vars])
    deferred = graph.frontier(
        weight_leaves.values(), late=late, recomputed=recomputed, named=graph.named(EXPERTS)
    )

    def input_half(kept_values: Tree, given_values: Tree):
        inputs = [*jax.tree.leaves(kept_values), *jax.tree.leaves(given_values)]
        known = constants | dict(zip(closed.jaxpr.invars, inputs, strict=True))
        values = graph.evaluate(known, [*results, *direct_leaves.values(), *deferred])
        direct = values[len(results) : len(results) + len(direct_leaves)]
        return (
            jax.tree.unflatten(results_tree, values[: len(results)]),
            dict(zip(direct_leaves, direct, strict=True)),
            values[len(results) + len(direct_leaves) :],
        )

    def weight_half(kept_values: Tree, deferred_values: Sequence[jax.Array]):
        inputs = [*jax.tree.leaves(kept_values), *deferred_values]
        known = constants | dict(zip((*kept_vars, *deferred), inputs, strict=True))
        values = graph.evaluate(known, list(weight_leaves.values()))
        return dict(zip(weight_leaves, values, strict=True))

    shapes = tuple(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in deferred)
    return SplitBackward(input_half, weight_half, shapes)


class _Graph(Graph):
    """What the sorting asks about variables."""

    def reachable_from_matmuls(self, within: set) -> set:
        """Results of the matmuls among these variables, and all that is computed from them."""
        matmuls = (e for e in self.jaxpr.eqns if _has_matmul(e))
        return self.reachable(v for e in matmuls for v in e.outvars if v in within)

    def computable(self, inputs: Iterable) -> set:
        """All that is computed from the inputs, and from nothing, without a matmul."""
        known = set(inputs)
        for eqn in self.jaxpr.eqns:
            if _has_matmul(eqn) or not _is_pure(eqn):
                continue
            if all(isinstance(v, Literal) or v in known for v in eqn.invars):
                known.update(eqn.outvars)
        return known

    def with_siblings(self, variables: set) -> set:
        """Together with what else their equations give."""
        equations = (e for e in self.jaxpr.eqns if not variables.isdisjoint(e.outvars))
        return variables.union(*(e.outvars for e in equations))

    def named(self, name: str) -> set:
        """Values with this name."""
        named = (e for e in self.jaxpr.eqns if e.params.get("name") == name)
        return {var for e in named if e.primitive.name == "name" for var in e.outvars}

    def frontier(
        self, targets: Iterable, *, late: set, recomputed: set, named: set
    ) -> list:
        """What the targets need from outside, neither late nor recomputed, in its smallest view.

        What follows from `named` without a matmul does so again.
        """
        again = self.computable([*recomputed, *named]) - named
        found: dict = {}
        seen, todo = set(), list(targets)
        while todo:
            var = todo.pop()
            if isinstance(var, Literal) or var in seen or var in recomputed:
                continue
            seen.add(var)
            if var in late or var in again:
                todo += self.producer[var].invars
            else:
                found[self._smallest_view(var)] = None
        return list(found)

    def _smallest_view(self, var):
        best = var
        while (eqn := self.producer.get(var)) is not None and eqn.primitive.name in _VIEWS:
            (var,) = [v for v in eqn.invars if not isinstance(v, Literal)]
            if _nbytes(var) <= _nbytes(best):
                best = var
        return best


def _has_matmul(eqn) -> bool:
    """Whether an equation is a matmul, or a loop or branch with one inside."""
    if eqn.primitive.name in _MATMULS:
        return True
    for param in jax.tree.leaves(
        list(eqn.params.values()), is_leaf=lambda p: isinstance(p, (core.Jaxpr, core.ClosedJaxpr))
    ):
        jaxpr = param.jaxpr if isinstance(param, core.ClosedJaxpr) else param
        if isinstance(jaxpr, core.Jaxpr) and any(_has_matmul(inner) for inner in jaxpr.eqns):
            return True
    return False


def _is_pure(eqn) -> bool:
    """Whether an equation may run twice. A collective may: all devices of a stage run its `W`."""
    return all(type(effect).__name__ == "NamedAxisEffect" for effect in eqn.effects)


def _nbytes(var) -> int:
    return var.aval.size * var.aval.dtype.itemsize
