"""What a layer's backward needs from its forward, and where it comes from.

A layer is `pre -> attention -> post`. `jax.vjp` of `pre` and of `post` returns a function that is a
tree: its leaves are the residuals. A probe traces both once per chunk length and names the source
of every leaf:

- a leaf that does not depend on the unit (weights, reshaped weights, rotary tables) is recomputed;
- a leaf that *is* the layer's input, the query, the attended values or this chunk's keys/values is
  read where that value is already stored;
- every other leaf is an entry of the residual ring.

The backward traces the same `jax.vjp` on the layer's stored input, substitutes the stored leaves
for the freshly traced ones and calls it. What was replaced has no reader left, so XLA removes
the forward matmuls. Nothing depends on the order of two traces: both make the same calls.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

from seq1f1b_jax.ops.router import EXPERTS
from seq1f1b_jax.ops.tensor import GATHERED, SUMMED
from seq1f1b_jax.pipeline.params.trained import ALL, Trained
from seq1f1b_jax.pipeline.stage import (
    Stage,
    Tree,
    once_per_stage,
    routed_post,
    tensor_of,
    value_dim_of,
)

RECOMPUTED = {"matmuls": ("x", "out", "lse"), "full": ("x",)}
"""What is kept where the backward runs the layer again: its input; without attention, too, what
that has left."""


@dataclass(frozen=True)
class ArenaEntry:
    """One value per layer and unit in the residual ring; `shape` is per device, for one chunk."""

    name: str
    shape: tuple[int, ...]
    dtype: jnp.dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class ResidualPlan:
    """Where each vjp leaf of a layer comes from: a name, or `None`: it is recomputed."""

    pre: tuple[str | None, ...]
    post: tuple[str | None, ...]
    entries: tuple[ArenaEntry, ...]


def layer_functions(stage: Stage, policy: str) -> tuple[Callable, Callable]:
    """`pre` and `routed_post` as the vjp sees them under a residual policy."""
    saveable, post = _saveable(stage, policy), routed_post(stage)
    if saveable is None:
        return stage.pre, post

    def pre(layer, x, context):
        return jax.checkpoint(
            lambda layer, x: stage.pre(layer, x, context), policy=saveable, prevent_cse=False
        )(layer, x)

    return pre, jax.checkpoint(post, policy=saveable, prevent_cse=False)


def _saveable(stage: Stage, policy: str) -> Callable | None:
    """What a vjp may keep, as a policy of `jax.checkpoint`; `None`: all it wants.

    Sums of matmuls are kept where the matmuls before them would be: recomputing one over devices
    costs a collective, and of others one value is less than two. Experts' matmuls are in a loop:
    their results are kept by name. Tokens gathered from other devices are never kept: each would
    keep all of them.
    """
    policies = jax.checkpoint_policies
    tensor = tensor_of(stage)
    if policy == "selective":
        named = policies.save_only_these_names(SUMMED, EXPERTS)
        return policies.save_from_both_policies(policies.dots_saveable, named)
    if policy == "none" and tensor.sequence:
        return _own_tokens
    return None


def _own_tokens(primitive, *_, **params) -> bool:
    """Whether a value is not tokens gathered from other devices.

    The name marks what comes out of the gather; what goes into the name is the same value.
    """
    return primitive is not lax.all_gather_p and params.get("name") != GATHERED


def plan_residuals(
    stage: Stage,
    layer: Tree,
    x: jax.ShapeDtypeStruct,
    *,
    policy: str,
    own_positions: bool = False,
    trained: Trained = ALL,
) -> ResidualPlan:
    """Probe one layer at one chunk length.

    Args:
      stage: the model's functions.
      layer: shapes and dtypes of one layer's weights, in the compute dtype.
      x: shape and dtype of the layer's input on one device, `[B, t, d]`.
      policy: `ExecutorOptions.recompute`.
      own_positions: whether positions differ by sequence, `[B, T]`, instead of `[T]`.
      trained: the weights whose gradients there are; what only those of others read is not kept.

    Raises:
      ValueError: a residual does not grow with the number of tokens, so the stage is not
        token-wise.
    """
    leaves, structure = jax.tree.flatten(layer)
    wide = jax.dtypes.canonicalize_dtype("float64")
    return _planned(stage, structure, tuple(leaves), x, policy, own_positions, trained, wide)


@once_per_stage
def _planned(stage, structure, leaves, x, policy, own_positions, trained, wide) -> ResidualPlan:
    """A run asks a dozen times for the same plans; `wide` tells whether there is float64."""
    layer = jax.tree.unflatten(structure, leaves)
    batch, tokens, dim = x.shape
    twice_x = jax.ShapeDtypeStruct((batch, 2 * tokens, dim), x.dtype)
    plan, longer = (
        _probe(stage, layer, x, policy=policy, own_positions=own_positions, trained=trained)
        for x in (x, twice_x)
    )
    for entry, twice in zip(plan.entries, longer.entries, strict=True):
        if twice.size != 2 * entry.size:
            raise ValueError(
                f"residual {entry.name} is {entry.shape} for {tokens} tokens and {twice.shape} for "
                f"{2 * tokens}; pre and post must be token-wise: only attention looks back"
            )
    return plan


def context_shape(stage: Stage, x: jax.ShapeDtypeStruct, *, own_positions: bool) -> Tree:
    """Shapes of `Stage.context` for a chunk whose layer input on one device is `x`."""
    batch, tokens, _ = x.shape
    tokens *= tensor_of(stage).token_parts
    shape = (batch, tokens) if own_positions else (tokens,)
    return jax.eval_shape(stage.context, jax.ShapeDtypeStruct(shape, jnp.int32))


def _probe(stage: Stage, layer: Tree, x: jax.ShapeDtypeStruct, *, policy, own_positions, trained):
    tensor = tensor_of(stage)
    context = context_shape(stage, x, own_positions=own_positions)
    query = tensor.shape_of(stage.pre, layer, x, context)[0]
    batch, tokens, heads, _ = query.shape
    attended = jax.ShapeDtypeStruct((*query.shape[:3], value_dim_of(stage)), query.dtype)
    lse = jax.ShapeDtypeStruct((batch, heads, tokens), jnp.promote_types(jnp.float32, x.dtype))
    stored = {"x": x, "q": query, "out": attended, "lse": lse}
    if policy in RECOMPUTED:
        return ResidualPlan((), (), _entries({n: stored[n] for n in RECOMPUTED[policy]}))

    pre, post = layer_functions(stage, policy)
    pre_sources = _sources(
        lambda layer, context, x: _with_leaves(
            trained, lambda a, b: pre(a, b, context), layer, x
        ),
        (layer, context),
        (x,),
        inputs=("x",),
        outputs=("q", "k", "v"),
        prefix="pre",
        stored=stored,
        environment=tensor.environment,
    )
    post_sources = _sources(
        lambda layer, x, out: _with_leaves(trained, post, layer, x, out),
        (layer,),
        (x, attended),
        inputs=("x", "out"),
        outputs=(),
        prefix="post",
        stored=stored,
        environment=tensor.environment,
    )
    return ResidualPlan(pre_sources, post_sources, _entries(stored))


def _entries(stored: Mapping[str, jax.ShapeDtypeStruct]) -> tuple[ArenaEntry, ...]:
    return tuple(ArenaEntry(name, s.shape, jnp.dtype(s.dtype)) for name, s in stored.items())


def _with_leaves(trained: Trained, function, *primals):
    outputs, vjp = trained.vjp(function, *primals)
    return outputs, jax.tree.leaves(vjp)


def _sources(function, constants, units, *, inputs, outputs, prefix, stored, environment):
    """Name the source of every vjp leaf of `function(*constants, *units)`; add ring entries."""
    trace = jax.make_jaxpr(function, axis_env=environment, return_shape=True)
    closed, (_, leaves) = trace(*constants, *units)
    jaxpr = closed.jaxpr
    num_constants = len(jaxpr.invars) - len(units)
    depends = _reachable(jaxpr, jaxpr.invars[num_constants:])
    known = dict(zip(jaxpr.invars[num_constants:], inputs, strict=True))
    for var, name in zip(jaxpr.outvars, outputs, strict=False):
        known.setdefault(var, name)
    first_leaf = len(jaxpr.outvars) - len(leaves)
    sources = []
    for index, var in enumerate(jaxpr.outvars[first_leaf:]):
        if isinstance(var, Literal) or var not in depends:
            sources.append(None)
            continue
        if var not in known:
            known[var] = f"{prefix}.{sum(name.startswith(prefix) for name in stored)}"
            stored[known[var]] = leaves[index]
        sources.append(known[var])
    return tuple(sources)


def _reachable(jaxpr, start) -> set:
    reached = set(start)
    for equation in jaxpr.eqns:
        if any(not isinstance(v, Literal) and v in reached for v in equation.invars):
            reached.update(equation.outvars)
    return reached


def shared(kinds: Sequence[Sequence[ArenaEntry]]) -> dict[str, ArenaEntry]:
    """Entries that serve several kinds of layers, by name.

    Args:
      kinds: what each kind leaves of a chunk.

    Raises:
      ValueError: two kinds leave different values under one name.
    """
    found: dict[str, ArenaEntry] = {}
    for entry in (entry for entries in kinds for entry in entries):
        if found.setdefault(entry.name, entry) != entry:
            raise ValueError(
                f"kinds of layers leave {found[entry.name]} and {entry}: their pre and post must "
                "compute alike but for constants; use executor.recompute=full for this model"
            )
    return found


def pull(
    sources: tuple[str | None, ...], values: Mapping[str, jax.Array], vjp: Callable
) -> Callable:
    """The vjp with its stored leaves substituted for the freshly traced ones."""
    leaves, treedef = jax.tree.flatten(vjp)
    if not sources:  # every leaf is recomputed
        return vjp
    kept = [
        leaf if source is None else values[source].reshape(leaf.shape)
        for source, leaf in zip(sources, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, kept)


def stored_leaves(sources: tuple[str | None, ...], vjp: Callable) -> dict[str, jax.Array]:
    """The leaves of a fresh vjp by the name of their source; the first of equal leaves wins."""
    named: dict[str, jax.Array] = {}
    for source, leaf in zip(sources, jax.tree.leaves(vjp), strict=True):
        if source is not None:
            named.setdefault(source, leaf)
    return named
