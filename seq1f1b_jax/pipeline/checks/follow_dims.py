"""How the flow of an axis goes through primitives: elementwise ones, and those that move dims.

A rule takes the equation and the flows of its operands (none broken); it gives the flow of its
outputs, one for all of them or a list, or raises a `FlowError`.
"""

from collections.abc import Callable, Iterable, Sequence

import jax.numpy as jnp
from jax.extend.core import JaxprEqn

from seq1f1b_jax.pipeline.checks.flow import (
    INDEX,
    MIXES,
    MOVES,
    SAME,
    UNKNOWN,
    Flow,
    FlowError,
    axis_size,
    constant,
    join,
    move,
    regroup,
    shape_of,
    touch,
    whole,
)

ELEMENTWISE = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz
complex conj convert_element_type copy cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor
ge gt igamma igamma_grad_a igammac imag integer_pow is_finite le lgamma log log1p log2 logistic lt
max min mul mulhi name ne neg nextafter not one_minus_square or polygamma population_count pow pvary
real reduce_precision rem round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical
sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta
""".split()

REDUCTIONS = """
argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum reduce_xor
""".split()

RUNNING = ("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum")
SCATTERS = ("scatter", "scatter-add", "scatter-max", "scatter-min", "scatter-mul", "scatter-sub")


def _shape(equation: JaxprEqn, operand: int = 0) -> tuple[int, ...]:
    return shape_of(equation.invars[operand])


def _result(equation: JaxprEqn) -> tuple[int, ...]:
    return shape_of(equation.outvars[0])


def _kept(rank: int, lost: Iterable[int]) -> dict[int, int]:
    """New index of every dim that is not lost."""
    lost = set(lost)
    return {dim: place for place, dim in enumerate(d for d in range(rank) if d not in lost)}


def _elementwise(equation: JaxprEqn, flows: list[Flow]) -> Flow:
    return join(flows)


def _bitcast(equation: JaxprEqn, flows: list[Flow]) -> Flow:
    if _shape(equation) != _result(equation):  # a dim for the parts of an element
        raise FlowError(UNKNOWN)
    return flows[0]


def _iota(equation: JaxprEqn, flows: list[Flow]) -> Flow:
    return constant(_result(equation), [equation.params["dimension"]])


def _broadcast_in_dim(equation: JaxprEqn, flows: list[Flow]) -> Flow:
    places = dict(enumerate(equation.params["broadcast_dimensions"]))
    return move(flows[0], places, _result(equation))


def _transpose(equation: JaxprEqn, flows: list[Flow]) -> Flow:
    order = equation.params["permutation"]
    return move(flows[0], {dim: place for place, dim in enumerate(order)}, _result(equation))


def _without(name: str) -> Callable:
    """A rule for primitives that drop the dims of a parameter."""

    def rule(equation: JaxprEqn, flows: list[Flow]) -> Flow:
        lost = equation.params[name]
        places = _kept(len(_shape(equation)), lost if isinstance(lost, Sequence) else (lost,))
        return move(join(flows), places, _result(equation))

    return rule


def _stack(equation: JaxprEqn, flows: list[Flow]) -> Flow:
    new, shape = equation.params["axis"], _result(equation)
    places = {dim: dim + (dim >= new) for dim in range(len(_shape(equation)))}
    return touch(move(join(flows), places, shape), [new], shape, added=True)


def _reshape(equation: JaxprEqn, flows: list[Flow]) -> Flow:
    return regroup(flows[0], _result(equation))


def _tile(equation: JaxprEqn, flows: list[Flow]) -> Flow:
    copies = [whole(reps, SAME) for reps in equation.params["reps"]]
    dims = [(*many, *dim) for many, dim in zip(copies, flows[0].dims, strict=True)]
    return flows[0]._replace(dims=tuple(dims))


def _along(name: str, how: str = MOVES, *, added: bool = False) -> Callable:
    """A rule for primitives that work along dims, named by a parameter; others are left alone."""

    def rule(equation: JaxprEqn, flows: list[Flow]) -> list[Flow]:
        given = equation.params.get(name, -1)
        dims = given if isinstance(given, tuple) else (given % len(_shape(equation)),)
        made = join([touch(flow, dims, _result(equation), how, added=added) for flow in flows])
        return [touch(made, dims, shape_of(var)) for var in equation.outvars]

    return rule


def _concatenate(equation: JaxprEqn, flows: list[Flow]) -> list[Flow]:
    """Whole numbers that differ by index may look up or write what belongs to that index."""
    try:
        return _along("dimension", added=True)(equation, flows)
    except FlowError as error:
        dtype = getattr(equation.outvars[0].aval, "dtype", None)
        index = error.how == INDEX and dtype is not None and jnp.issubdtype(dtype, jnp.integer)
        raise FlowError(UNKNOWN if index else error.how) from error


def _pad(equation: JaxprEqn, flows: list[Flow]) -> Flow:
    padded = [dim for dim, sizes in enumerate(equation.params["padding_config"]) if any(sizes)]
    return join([touch(flows[0], padded, _result(equation), added=True), flows[1]])


def _slice(equation: JaxprEqn, flows: list[Flow]) -> Flow:
    shorter = _shorter(_shape(equation), _result(equation))
    return join([touch(flows[0], shorter, _result(equation)), *flows[1:]])


def _update_slice(equation: JaxprEqn, flows: list[Flow]) -> Flow:
    shape, shorter = _result(equation), _shorter(_shape(equation), _shape(equation, 1))
    return join([*(touch(flow, shorter, shape, added=True) for flow in flows[:2]), *flows[2:]])


def _shorter(old: Sequence[int], new: Sequence[int]) -> list[int]:
    return [dim for dim in range(len(old)) if old[dim] != new[dim]]


def _dot_general(equation: JaxprEqn, flows: list[Flow]) -> Flow:
    """Dims of the product: those of the batch, then those free on the left and on the right."""
    contracted, batch = equation.params["dimension_numbers"]
    place, moved = len(batch[0]), []
    for side in (0, 1):
        rank = len(_shape(equation, side))
        free = [d for d in range(rank) if d not in (*contracted[side], *batch[side])]
        places = {dim: index for index, dim in enumerate(batch[side])}
        places |= {dim: place + index for index, dim in enumerate(free)}
        place += len(free)
        moved.append(move(flows[side], places, _result(equation)))
    return join(moved)


def _conv(equation: JaxprEqn, flows: list[Flow]) -> Flow:
    """The axis may be in the batch, or a spatial dim over which the kernel is one element wide."""
    params, numbers = equation.params, equation.params["dimension_numbers"]
    if flows[1].loops is not None:
        raise FlowError(UNKNOWN)

    def alone(spatial: int) -> bool:
        kernel = _shape(equation, 1)[numbers.rhs_spec[2 + spatial]]
        steps = [params[n][spatial] for n in ("window_strides", "lhs_dilation", "rhs_dilation")]
        return kernel == 1 and steps == [1, 1, 1] and tuple(params["padding"][spatial]) == (0, 0)

    kept = [0] * (params["batch_group_count"] == 1)
    kept += [2 + spatial for spatial in range(len(numbers.lhs_spec) - 2) if alone(spatial)]
    places = {numbers.lhs_spec[place]: numbers.out_spec[place] for place in kept}
    shape = _result(equation)
    mixed = set(range(len(shape))) - set(places.values())
    return touch(move(flows[0], places, shape), mixed, shape, added=True)


def _gather(equation: JaxprEqn, flows: list[Flow]) -> Flow:
    """Rows looked up: the axis may be that of the indices, or one of which whole slices are taken.

    The dims of the output are `offset_dims`, of the slices, and in between those of the indices.
    """
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape, result, (operand, indices) = _shape(equation), _result(equation), flows
    batching = dict(
        zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    )
    lookups = [dim for dim in range(len(result)) if dim not in numbers.offset_dims]
    gone = (*numbers.collapsed_slice_dims, *batching)
    sliced = [dim for dim in range(len(shape)) if dim not in gone]
    places = {dim: numbers.offset_dims[index] for index, dim in enumerate(sliced)}
    places |= {dim: lookups[index] for dim, index in batching.items()}
    # elements of the axis may be chosen by other elements of it
    how = MOVES if indices.loops is None else UNKNOWN
    picked = [dim for dim in _shorter(shape, sizes) if dim not in batching]
    operand = move(touch(operand, picked, sizes, how), places, result)
    return join([operand, move(indices, dict(enumerate(lookups)), result)])


def _scatter(equation: JaxprEqn, flows: list[Flow]) -> Flow:
    """The transpose of `_gather`: updates go to where rows were looked up."""
    numbers, (operand, indices, updates) = equation.params["dimension_numbers"], flows
    shape, updated = _shape(equation), _shape(equation, 2)
    batching = dict(
        zip(numbers.scatter_indices_batching_dims, numbers.operand_batching_dims, strict=True)
    )
    gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    windowed = [dim for dim in range(len(shape)) if dim not in gone]
    places = dict(zip(numbers.update_window_dims, windowed, strict=True))
    places = {dim: place for dim, place in places.items() if updated[dim] == shape[place]}
    lookups = [dim for dim in range(len(updated)) if dim not in numbers.update_window_dims]
    places |= {lookups[index]: dim for index, dim in batching.items()}
    for flow, known in ((indices, batching), (updates, places)):
        if axis_size(*(dim for at, dim in enumerate(flow.dims) if at not in known)) > 1:
            raise FlowError(UNKNOWN)
    written = numbers.scatter_dims_to_operand_dims
    operand = touch(operand, written, shape, added=True)
    made = join([operand, move(indices, batching, shape), move(updates, places, shape)])
    return touch(made, written, shape, added=True)


RULES: dict[str, Callable[[JaxprEqn, list[Flow]], Flow | list[Flow]]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(REDUCTIONS, _without("axes")),
    **dict.fromkeys(RUNNING, _along("axis", MIXES, added=True)),
    **dict.fromkeys(SCATTERS, _scatter),
    "bitcast_convert_type": _bitcast,
    "iota": _iota,
    "broadcast_in_dim": _broadcast_in_dim,
    "transpose": _transpose,
    "squeeze": _without("dimensions"),
    "unstack": _without("axis"),
    "stack": _stack,
    "tile": _tile,
    "reshape": _reshape,
    "rev": _along("dimensions"),
    "concatenate": _concatenate,
    "split": _along("axis"),
    "sort": _along("dimension", UNKNOWN),
    "top_k": _along("axis", UNKNOWN),
    "pad": _pad,
    "slice": _slice,
    "dynamic_slice": _slice,
    "dynamic_update_slice": _update_slice,
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
    "gather": _gather,
}
"""Rules by the name of the primitive."""
