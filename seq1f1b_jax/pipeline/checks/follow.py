"""Follow one axis of a program's inputs to its outputs: does it stay apart, element by element?

Every value of a jaxpr is given a `Flow`: where the axis is in it, or none where it does not depend
on the axis, or what broke it. A rule per primitive propagates the flow; a primitive without one
breaks the flow as `unknown`. Only shapes are looked at, so the size of a model does not matter. The
rules of primitives that move dims are in `follow_dims`.
"""

from collections.abc import Sequence
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from seq1f1b_jax.ops.experts import TOKEN_WISE
from seq1f1b_jax.pipeline.checks.flow import (
    DIFFERS,
    INDEX,
    MIXES,
    UNKNOWN,
    Broken,
    Flow,
    FlowError,
    axis_size,
    constant,
    join,
    merge,
    shape_of,
    whole,
)
from seq1f1b_jax.pipeline.checks.follow_dims import RULES
from seq1f1b_jax.pipeline.params.some_rows import CALLS

EACH_ITS_OWN = frozenset(
    ("optimization_barrier", "sharding_constraint", "device_put", "layout_constraint", "copy_p")
)
"""Primitives that return every operand unchanged."""

SMALL = 1 << 16
"""Elements of a constant that is read to see along which dims it varies."""


def follow(program: ClosedJaxpr, flows: Sequence[Flow]) -> list[Flow]:
    """The flow of every output.

    Args:
      program: what is followed through.
      flows: of its inputs.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from seq1f1b_jax.pipeline.checks.flow import along
      >>> from seq1f1b_jax.pipeline.checks.follow import follow
      >>> program = jax.make_jaxpr(lambda x: (2 * x.T, x - x.mean(0)))(jnp.ones((5, 3)))
      >>> kept, mixed = follow(program, [along((5, 3), 0)])
      >>> kept == along((3, 5), 1), mixed.broken.how
      (True, 'mixes')
    """
    constants = [_of_constant(value) for value in program.consts]
    return _run(program.jaxpr, [*constants, *flows])


def _run(jaxpr: Jaxpr, flows: Sequence[Flow]) -> list[Flow]:
    """`flows` are those of constants and inputs."""
    known: dict[Var, Flow] = dict(zip([*jaxpr.constvars, *jaxpr.invars], flows, strict=True))

    def read(atom) -> Flow:
        return _of_constant(atom.val) if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        outputs = _equation(equation, [read(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(equation: JaxprEqn, flows: list[Flow]) -> list[Flow]:
    name = equation.primitive.name
    try:
        if name in CONTROL:
            return CONTROL[name](equation, flows)
        if equation.params.get("name") in TOKEN_WISE:
            return _token_wise(equation, flows)
        if name in CALLS:
            called = equation.params[CALLS[name]]
            return (follow if hasattr(called, "consts") else _run)(called, flows)
        if name in EACH_ITS_OWN:
            return flows
        broken = next((flow for flow in flows if flow.broken), None)
        if broken:
            return [broken] * len(equation.outvars)
        if name in RULES:
            made = RULES[name](equation, flows)
            return made if isinstance(made, list) else [made] * len(equation.outvars)
        if any(flow.loops is not None for flow in flows):
            raise FlowError(UNKNOWN)
    except FlowError as error:
        return [Flow(broken=Broken(error.how, name))] * len(equation.outvars)
    return [constant(shape_of(var)) for var in equation.outvars]


def _token_wise(equation: JaxprEqn, flows: list[Flow]) -> list[Flow]:
    """A function of ours that sorts tokens, and puts what it makes of each back in its place."""
    taken, given = TOKEN_WISE[equation.params["name"]]
    values = [flows[index] for index in taken]
    broken = [flow for flow in values if flow.broken]
    if broken:
        return broken[:1] * len(equation.outvars)
    rows = join([Flow(flow.dims[:2], flow.loops) for flow in values])
    made = [Flow(broken=Broken(UNKNOWN, "sort"))] * len(equation.outvars)
    for index in given:
        *_, width = shape_of(equation.outvars[index])
        made[index] = rows._replace(dims=(*rows.dims, whole(width, DIFFERS)))
    return made


def _of_constant(value) -> Flow:
    """A constant varies along the dims in which its parts differ."""
    shape = np.shape(value)
    key = hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jax.dtypes.extended)
    if key or np.size(value) > SMALL:
        return constant(shape)
    array = np.asarray(value)
    differs = (np.any(array != array.take([0], dim)) for dim in range(array.ndim) if array.size)
    return constant(shape, (dim for dim, found in enumerate(differs) if found))


def _scan(equation: JaxprEqn, flows: list[Flow]) -> list[Flow]:
    """What is stacked over iterations has a dim more outside of the body than inside.

    The flow of the carry is that after any number of iterations. In a loop over the axis, or over a
    part of it, a carry that has changed comes from other elements.
    """
    params, body = equation.params, equation.params["jaxpr"]
    num_consts, num_carry = _counts(equation)
    consts, carry = flows[:num_consts], flows[num_consts : num_consts + num_carry]
    stacked = flows[num_consts + num_carry :]
    over = any(not flow.broken and axis_size(flow.dims[0]) > 1 for flow in stacked)
    items = [_item(flow, id(equation), over) for flow in stacked]
    while True:
        outputs = follow(body, [*consts, *carry, *items])
        after = outputs[:num_carry]
        if over:
            kept = body.jaxpr.invars[num_consts : num_consts + num_carry]
            same = [a is b for a, b in zip(kept, body.jaxpr.outvars, strict=False)]
            after = [a if s else _carried(a) for a, s in zip(after, same, strict=True)]
        merged = [merge(a, b) for a, b in zip(carry, after, strict=True)]
        if merged == carry:
            stacks = outputs[num_carry:]
            return [*carry, *(_stack(flow, id(equation), params["length"]) for flow in stacks)]
        carry = merged


def _counts(equation: JaxprEqn) -> tuple[int, int]:
    """How many constants and carried values a scan has."""
    body = equation.params["jaxpr"]
    stacked_in, stacked_out = (
        sum(shape_of(a) != shape_of(b) for a, b in zip(outside, inside, strict=True))
        for outside, inside in (
            (equation.invars, body.jaxpr.invars),
            (equation.outvars, body.jaxpr.outvars),
        )
    )
    num_carry = len(equation.outvars) - stacked_out
    return len(equation.invars) - stacked_in - num_carry, num_carry


def _item(flow: Flow, loop: int, over: bool) -> Flow:
    """A stacked value as one iteration sees it; `over`: the loop is over the axis."""
    if flow.broken:
        return flow
    first, *dims = flow.dims
    if axis_size(first) > 1:
        return Flow(tuple(dims), (*(flow.loops or ()), (loop, first)))
    if over and flow.loops is None and any(part.kind == DIFFERS for part in first):
        return Flow(broken=Broken(INDEX, "scan"))
    return flow._replace(dims=tuple(dims))


def _carried(flow: Flow) -> Flow:
    """What a loop over the axis has made of a carried value."""
    how = INDEX if flow.loops is None else MIXES
    return flow if flow.broken else Flow(broken=Broken(how, "scan"))


def _stack(flow: Flow, loop: int, length: int) -> Flow:
    """The values of all iterations."""
    if flow.broken:
        return flow
    if flow.loops and flow.loops[-1][0] == loop:
        return Flow((flow.loops[-1][1], *flow.dims), flow.loops[:-1])
    return flow._replace(dims=(whole(length, DIFFERS), *flow.dims))


def _while(equation: JaxprEqn, flows: list[Flow]) -> list[Flow]:
    params = equation.params
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    cond_consts, body_consts, carry = flows[:first], flows[first:second], flows[second:]
    while True:
        outputs = follow(params["body_jaxpr"], [*body_consts, *carry])
        merged = [merge(a, b) for a, b in zip(carry, outputs, strict=True)]
        if merged == carry:
            break
        carry = merged
    (goes_on,) = follow(params["cond_jaxpr"], [*cond_consts, *carry])
    return [merge(goes_on, flow) for flow in carry]


def _cond(equation: JaxprEqn, flows: list[Flow]) -> list[Flow]:
    which, *operands = flows
    branches = [follow(branch, operands) for branch in equation.params["branches"]]
    return [reduce(merge, found, which) for found in zip(*branches, strict=True)]


CONTROL = {"scan": _scan, "while": _while, "cond": _cond}
