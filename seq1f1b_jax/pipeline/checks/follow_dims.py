"""How the flow of an axis goes through primitives: elementwise ones, and those that move dims.

A rule takes the equation, the flows of its operands (none broken) and the size of the axis; it
gives the flow of its outputs, one for all of them, or raises a `FlowError`.
"""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import SupportsIndex

from jax.extend.core import JaxprEqn

from seq1f1b_jax.pipeline.checks.flow import (
    INDEX,
    MIXES,
    UNKNOWN,
    Axis,
    Flow,
    FlowError,
    join,
    shape_of,
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


def move(flow: Flow, places: Mapping[SupportsIndex, SupportsIndex]) -> Flow:
    """The flow after a permutation or a loss of dims; the axis must keep a dim.

    Raises:
      FlowError: it loses its dim.
    """
    if flow.axis is None:
        varies = (operator.index(places[dim]) for dim in flow.varies if dim in places)
        return Flow(varies=frozenset(varies))
    if flow.axis.dim not in places:
        raise FlowError(MIXES)
    return Flow(flow.axis._replace(dim=operator.index(places[flow.axis.dim])))


def _shape(equation: JaxprEqn, operand: int = 0) -> tuple[int, ...]:
    return shape_of(equation.invars[operand])


def _result(equation: JaxprEqn) -> tuple[int, ...]:
    return shape_of(equation.outvars[0])


def _kept(rank: int, lost: Iterable[int]) -> dict[int, int]:
    """New index of every dim that is not lost."""
    lost = set(lost)
    return {dim: place for place, dim in enumerate(d for d in range(rank) if d not in lost)}


def _elementwise(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    return join(flows)


def _bitcast(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    if _shape(equation) != _result(equation):  # a dim for the parts of an element
        raise FlowError(UNKNOWN)
    return flows[0]


def _iota(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    return Flow(varies=frozenset([equation.params["dimension"]]))


def _broadcast_in_dim(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    return move(flows[0], dict(enumerate(equation.params["broadcast_dimensions"])))


def _transpose(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    order = equation.params["permutation"]
    return move(flows[0], {dim: place for place, dim in enumerate(order)})


def _squeeze(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    return move(flows[0], _kept(len(_shape(equation)), equation.params["dimensions"]))


def _unstack(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    return move(flows[0], _kept(len(_shape(equation)), (equation.params["axis"],)))


def _stack(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    new = equation.params["axis"]
    found = move(join(flows), {d: d + (d >= new) for d in range(len(_shape(equation)))})
    return found if found.axis else Flow(varies=found.varies | {new})


def _reduce(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    return move(join(flows), _kept(len(_shape(equation)), equation.params["axes"]))


def _reshape(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    """Row-major order stays: the axis keeps its distance between neighbours in it.

    Its index counts `inner * (product of later dims)` elements: in `[2, 5, 3]` the middle dim
    counts 3, and so does the axis of size 5 inside dim 0 of `[10, 3]`.
    """
    (flow, *_), old, new = flows, _shape(equation), _result(equation)
    if flow.axis is None:
        places = _same_dims(old, new)
        return move(flow, places) if places or not flow.varies else Flow(varies=_wide(new))
    distance = flow.axis.inner * math.prod(old[flow.axis.dim + 1 :])
    for dim in range(len(new)):
        below = math.prod(new[dim + 1 :])
        if distance % below == 0 and below * new[dim] % (distance * size) == 0:
            return Flow(Axis(dim, distance // below))
    raise FlowError(UNKNOWN)  # cut into several dims


def _same_dims(old: Sequence[int], new: Sequence[int]) -> dict[int, int]:
    """New indices of dims where a reshape does no more than add or drop dims of size 1."""
    before, after = sorted(_wide(old)), sorted(_wide(new))
    same = [old[dim] for dim in before] == [new[dim] for dim in after]
    return dict(zip(before, after, strict=True)) if same else {}


def _wide(shape: Sequence[int]) -> frozenset[int]:
    return frozenset(dim for dim, size in enumerate(shape) if size > 1)


def _along(*names: str, how: str = MIXES) -> Callable:
    """A rule for primitives that work along dims, named by a parameter; others are left alone."""

    def rule(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
        given = next(equation.params[name] for name in names if name in equation.params)
        dims = given if isinstance(given, tuple) else (given,)
        if any(flow.axis and flow.axis.dim in dims for flow in flows):
            raise FlowError(how)
        flow = join(flows)
        return flow if flow.axis else Flow(varies=flow.varies | frozenset(dims))

    return rule


def _top_k(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    dim = equation.params.get("axis", -1) % len(_shape(equation))
    if flows[0].axis and flows[0].axis.dim == dim:
        raise FlowError(UNKNOWN)
    return flows[0] if flows[0].axis else Flow(varies=flows[0].varies | {dim})


def _pad(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    padded = {dim for dim, sizes in enumerate(equation.params["padding_config"]) if any(sizes)}
    return _touched(flows[0], padded)


def _tile(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    return _touched(flows[0], {dim for dim, n in enumerate(equation.params["reps"]) if n != 1})


def _slice(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    return _touched(flows[0], _shorter(_shape(equation), _result(equation)))


def _update_slice(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    flow = join(flows[:2])
    return _touched(flow, _shorter(_shape(equation), _shape(equation, 1)))


def _shorter(old: Sequence[int], new: Sequence[int]) -> set[int]:
    return {dim for dim in range(len(old)) if old[dim] != new[dim]}


def _touched(flow: Flow, dims: set[int]) -> Flow:
    """The flow of a value of which parts are taken, or to which some are added, along `dims`."""
    if flow.axis and flow.axis.dim in dims:
        raise FlowError(MIXES)
    return flow if flow.axis else Flow(varies=flow.varies | dims)


def _dot_general(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    """Dims of the product: those of the batch, then those free on the left and on the right."""
    contracted, batch = equation.params["dimension_numbers"]
    place, moved = len(batch[0]), []
    for side in (0, 1):
        rank = len(_shape(equation, side))
        free = [d for d in range(rank) if d not in (*contracted[side], *batch[side])]
        places = {dim: index for index, dim in enumerate(batch[side])}
        places |= {dim: place + index for index, dim in enumerate(free)}
        place += len(free)
        moved.append(move(flows[side], places))
    return join(moved)


def _conv(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    """The axis may be the batch, or a spatial dim over which the kernel is one element wide."""
    params, axis = equation.params, flows[0].axis
    if flows[1].axis or axis is None:
        raise FlowError(UNKNOWN)
    numbers = params["dimension_numbers"]
    place = numbers.lhs_spec.index(axis.dim)
    if place >= 2:
        spatial = place - 2
        kernel = _shape(equation, 1)[numbers.rhs_spec[place]]
        steps = [params[n][spatial] for n in ("window_strides", "lhs_dilation", "rhs_dilation")]
        alone = kernel == 1 and steps == [1, 1, 1] and tuple(params["padding"][spatial]) == (0, 0)
    else:
        alone = place == 0 and params["batch_group_count"] == 1
    if not alone:
        raise FlowError(MIXES)
    return Flow(axis._replace(dim=numbers.out_spec[place]))


def _gather(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
    """Rows looked up: the axis may be that of the indices, or one of which whole slices are taken.

    The dims of the output are `offset_dims`, of the slices, and in between those of the indices.
    """
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape, rank = _shape(equation), len(_result(equation))
    batching = dict(
        zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True)
    )
    lookups = [dim for dim in range(rank) if dim not in numbers.offset_dims]
    gone = (*numbers.collapsed_slice_dims, *batching)
    sliced = [dim for dim in range(len(shape)) if dim not in gone]
    places = {dim: numbers.offset_dims[index] for index, dim in enumerate(sliced)}
    whole = {dim: place for dim, place in places.items() if sizes[dim] == shape[dim]}
    whole |= {dim: lookups[index] for dim, index in batching.items()}
    operand, indices = flows
    if operand.axis and indices.axis and operand.axis.dim not in whole:
        raise FlowError(UNKNOWN)  # elements of the axis chosen by other elements of it
    return join([move(operand, whole), move(indices, dict(enumerate(lookups)))])


def _scatter(equation: JaxprEqn, flows: list[Flow], size: int) -> Flow:
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
        if flow.axis and flow.axis.dim not in known:
            raise FlowError(UNKNOWN)
    written = set(numbers.scatter_dims_to_operand_dims)
    if operand.axis and operand.axis.dim in written:
        raise FlowError(MIXES)
    found = join([operand, move(indices, batching), move(updates, places)])
    if not found.axis:
        return Flow(varies=found.varies | written)
    if found.axis.dim in written:
        raise FlowError(INDEX)
    return found


RULES: dict[str, Callable[[JaxprEqn, list[Flow], int], Flow | list[Flow]]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(RUNNING, _along("axis")),
    **dict.fromkeys(SCATTERS, _scatter),
    "bitcast_convert_type": _bitcast,
    "iota": _iota,
    "broadcast_in_dim": _broadcast_in_dim,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "stack": _stack,
    "unstack": _unstack,
    "tile": _tile,
    "reshape": _reshape,
    "rev": _along("dimensions"),
    "concatenate": _along("dimension"),
    "split": _along("axis"),
    "sort": _along("dimension", how=UNKNOWN),
    "top_k": _top_k,
    "pad": _pad,
    "slice": _slice,
    "dynamic_slice": _slice,
    "dynamic_update_slice": _update_slice,
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
    "gather": _gather,
}
"""Rules by the name of the primitive."""
