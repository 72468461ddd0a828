"""Follow one axis of a program's inputs to its outputs: does it stay apart, element by element?

Every value of a jaxpr is given a `Flow`: where the axis is in it, or none where it does not depend
on the axis, or what broke it. A rule per primitive propagates the flow; a primitive
without one breaks the flow as `unknown`. Only shapes are looked at, so the size of a model does not
matter. The rules of primitives that move dims are in `follow_dims`.
"""

from collections.abc import Sequence

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from seq1f1b_jax.pipeline.checks.flow import (
    UNKNOWN,
    Broken,
    Flow,
    FlowError,
    join,
    merge,
    nothing_of,
    shape_of,
)
from seq1f1b_jax.pipeline.checks.follow_dims import RULES

CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")
"""Parameters in which a primitive that calls keeps what it calls."""

EACH_ITS_OWN = frozenset(
    ("optimization_barrier", "sharding_constraint", "device_put", "layout_constraint", "copy_p")
)
"""Primitives that return every operand unchanged."""

SMALL = 1 << 16
"""Elements of a constant that is read to see along which dims it varies."""


def follow(program: ClosedJaxpr, flows: Sequence[Flow], *, size: int) -> list[Flow]:
    """The flow of every output.

    Args:
      program: what is followed through.
      flows: of its inputs.
      size: of the axis.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from seq1f1b_jax.pipeline.checks.flow import Axis, Flow
      >>> from seq1f1b_jax.pipeline.checks.follow import follow
      >>> program = jax.make_jaxpr(lambda x: (2 * x.T, x - x.mean(0)))(jnp.ones((5, 3)))
      >>> kept, mixed = follow(program, [Flow(Axis(0))], size=5)
      >>> kept.axis.dim, mixed.broken.how
      (1, 'mixes')
    """
    constants = [_of_constant(value) for value in program.consts]
    return _run(program.jaxpr, [*constants, *flows], size)


def _run(jaxpr: Jaxpr, flows: Sequence[Flow], size: int) -> list[Flow]:
    """`flows` are those of constants and inputs."""
    known: dict[Var, Flow] = dict(zip([*jaxpr.constvars, *jaxpr.invars], flows, strict=True))

    def read(atom) -> Flow:
        return Flow() if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        outputs = _equation(equation, [read(atom) for atom in equation.invars], size)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(equation: JaxprEqn, flows: list[Flow], size: int) -> list[Flow]:
    name = equation.primitive.name
    try:
        if name in CONTROL:
            return CONTROL[name](equation, flows, size)
        called = next((equation.params[key] for key in CALLED if key in equation.params), None)
        if isinstance(called, (Jaxpr, ClosedJaxpr)) and name not in ("shard_map", "pallas_call"):
            return _call(called, flows, size)
        if name in EACH_ITS_OWN:
            return flows
        broken = next((flow for flow in flows if flow.broken), None)
        if broken:
            return [broken] * len(equation.outvars)
        if name in RULES:
            made = RULES[name](equation, flows, size)
            return made if isinstance(made, list) else [made] * len(equation.outvars)
        if any(flow.axis for flow in flows):
            raise FlowError(UNKNOWN)
    except FlowError as error:
        return [Flow(broken=Broken(error.how, name))] * len(equation.outvars)
    return [nothing_of(shape_of(var)) for var in equation.outvars]


def _call(called: Jaxpr | ClosedJaxpr, flows: list[Flow], size: int) -> list[Flow]:
    if isinstance(called, ClosedJaxpr):
        return follow(called, flows, size=size)
    return _run(called, flows, size)


def _of_constant(value) -> Flow:
    """A constant varies along the dims in which its parts differ."""
    shape = np.shape(value)
    if not hasattr(value, "dtype") or not np.issubdtype(value.dtype, np.number):
        return nothing_of(shape)
    if np.size(value) > SMALL:
        return nothing_of(shape)
    array = np.asarray(value)
    differs = (np.any(array != array.take([0], dim)) for dim in range(array.ndim) if array.size)
    return Flow(varies=frozenset(dim for dim, found in enumerate(differs) if found))


def _scan(equation: JaxprEqn, flows: list[Flow], size: int) -> list[Flow]:
    """The carry until it changes no more; a loop over the axis itself is not looked into.

    What is stacked over iterations has a dim more outside of the body than inside.
    """
    body = equation.params["jaxpr"]
    stacked_in, stacked_out = (
        sum(shape_of(a) != shape_of(b) for a, b in zip(outside, inside, strict=True))
        for outside, inside in (
            (equation.invars, body.jaxpr.invars), (equation.outvars, body.jaxpr.outvars)
        )
    )
    num_carry, first = len(equation.outvars) - stacked_out, len(flows) - stacked_in
    consts, carry = flows[: first - num_carry], flows[first - num_carry : first]
    items = [_shift_dims(flow, -1) for flow in flows[first:]]
    while True:
        outputs = follow(body, [*consts, *carry, *items], size=size)
        merged = [merge(a, b) for a, b in zip(carry, outputs[:num_carry], strict=True)]
        if merged == carry:
            return [*carry, *(_shift_dims(flow, 1) for flow in outputs[num_carry:])]
        carry = merged


def _shift_dims(flow: Flow, by: int) -> Flow:
    """A value that is stacked over iterations, as one of them sees it (`by` = -1), and back."""
    if flow.axis is None:
        varies = {dim + by for dim in flow.varies if dim + by >= 0}
        return flow._replace(varies=frozenset(varies | {0} if by > 0 else varies))
    if flow.axis.dim + by < 0:
        return Flow(broken=Broken(UNKNOWN, "scan"))
    return flow._replace(axis=flow.axis._replace(dim=flow.axis.dim + by))


def _while(equation: JaxprEqn, flows: list[Flow], size: int) -> list[Flow]:
    params = equation.params
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    cond_consts, body_consts, carry = flows[:first], flows[first:second], flows[second:]
    while True:
        outputs = follow(params["body_jaxpr"], [*body_consts, *carry], size=size)
        merged = [merge(a, b) for a, b in zip(carry, outputs, strict=True)]
        if merged == carry:
            break
        carry = merged
    (goes_on,) = follow(params["cond_jaxpr"], [*cond_consts, *carry], size=size)
    return [goes_on] * len(carry) if goes_on.broken else carry


def _cond(equation: JaxprEqn, flows: list[Flow], size: int) -> list[Flow]:
    which, *operands = flows
    if which.broken:
        return [which] * len(equation.outvars)
    branches = [follow(branch, operands, size=size) for branch in equation.params["branches"]]
    return [_merge_all(found) for found in zip(*branches, strict=True)]


def _merge_all(flows: Sequence[Flow]) -> Flow:
    broken = [flow for flow in flows if flow.broken]
    return broken[0] if broken else join(flows)


CONTROL = {"scan": _scan, "while": _while, "cond": _cond}
