"""Where an axis is in a value of a program, and how two values combine."""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from math import gcd, prod
from typing import Any, NamedTuple

MIXES, INDEX, MOVES, UNKNOWN = SUREST_FIRST = "mixes", "index", "moves", "unknown"
"""How a flow breaks: elements of the axis are combined; a value differs along it by index alone;
elements are picked or moved, perhaps back to where they were; a primitive has no rule."""

SAME, DIFFERS = 0, -1


class Part(NamedTuple):
    """Some of the indices of a dim, which its parts count together in row-major order.

    Attributes:
      size: how many, at least 2.
      kind: `SAME` where the value is the same at all of them, `DIFFERS` where it may differ, or the
        step in the axis between neighbours: `size` steps of 1 are an axis of that size, and those
        of 2 are every other element of one of twice the size.
    """

    size: int
    kind: int


Dim = tuple[Part, ...]


class Broken(NamedTuple):
    """How a flow broke, and the primitive that broke it."""

    how: str
    primitive: str


class Flow(NamedTuple):
    """What a value has to do with the axis.

    Attributes:
      dims: parts of every dim; a dim of size 1 has none.
      loops: `None` where the value does not depend on the axis. Otherwise each element depends on
        one element of the axis: that which `dims` name together with the iteration of these loops
        (an id, the parts that it is over) in which the value is computed.
      broken: how the flow broke, if it did; the rest is void then.
    """

    dims: tuple[Dim, ...] = ()
    loops: tuple[tuple[int, Dim], ...] | None = None
    broken: Broken | None = None


class FlowError(Exception):
    """The flow breaks here; `how` is one of the four ways."""

    def __init__(self, how: str):
        super().__init__(how)
        self.how = how


def whole(size: int, kind: int) -> Dim:
    """A dim of one part."""
    return (Part(size, kind),) if size > 1 else ()


def constant(shape: Sequence[int], differs: Iterable[int] | None = None) -> Flow:
    """A value that does not depend on the axis; it varies along the dims `differs`, or all."""
    dims = range(len(shape)) if differs is None else set(differs)
    return Flow(tuple(whole(n, DIFFERS if d in dims else SAME) for d, n in enumerate(shape)))


def along(shape: Sequence[int], dim: int) -> Flow:
    """A value whose dim `dim` is the axis."""
    dims = [whole(size, DIFFERS) for size in shape]
    dims[dim] = whole(shape[dim], 1)
    return Flow(tuple(dims), loops=())


def axis_size(*dims: Dim) -> int:
    """How many elements of the axis are along these dims; 1: it is not there."""
    return prod(part.size for dim in dims for part in dim if part.kind > 0)


def move(flow: Flow, places: Mapping[int, int], shape: Sequence[int]) -> Flow:
    """The flow after a permutation, a loss, or a gain of dims, along which the value is the same.

    Args:
      flow: before.
      places: new indices of dims.
      shape: afterwards.

    Raises:
      FlowError: the axis loses a dim.
    """
    if axis_size(*(parts for dim, parts in enumerate(flow.dims) if dim not in places)) > 1:
        raise FlowError(MIXES)
    dims = [whole(size, SAME) for size in shape]
    for dim, place in places.items():
        if dim < len(flow.dims) and flow.dims[dim]:
            dims[place] = flow.dims[dim]
    return flow._replace(dims=tuple(dims))


def touch(
    flow: Flow, dims: Iterable[int], shape: Sequence[int], how: str = MOVES, *, added: bool = False
) -> Flow:
    """The flow after elements are picked or moved along `dims`, or others `added`.

    Args:
      flow: before.
      dims: along which.
      shape: afterwards.
      how: the flow breaks, where the axis is in one of these dims.
      added: whether the value varies along `dims` now, though it did not before.

    Raises:
      FlowError: the axis is in one of these dims.
    """
    made = list(flow.dims)
    for dim in dims:
        if axis_size(made[dim]) > 1:
            raise FlowError(how)
        differs = added or any(part.kind == DIFFERS for part in made[dim])
        made[dim] = whole(shape[dim], DIFFERS if differs else SAME)
    return flow._replace(dims=tuple(made))


def join(flows: Sequence[Flow]) -> Flow:
    """The flow of values of one shape, or scalars, that combine element by element.

    Raises:
      FlowError: the axis is elsewhere in one of them, or one differs along it.
    """
    return reduce(_join, flows)


def _join(a: Flow, b: Flow) -> Flow:
    both = a.loops is not None and b.loops is not None
    if both and a.loops != b.loops:
        raise FlowError(MIXES)
    if not (a.dims and b.dims):
        dims = a.dims or b.dims
    else:
        how = MIXES if both else INDEX
        dims = tuple(_join_dims(*pair, how) for pair in zip(a.dims, b.dims, strict=True))
    for flow in (a, b):
        if flow.loops is not None and axis_size(*flow.dims) != axis_size(*dims):
            raise FlowError(MIXES)
    return Flow(dims, b.loops if a.loops is None else a.loops)


def _join_dims(a: Dim, b: Dim, how: str) -> Dim:
    if not (a and b):  # of size 1 in one of them, or in both
        return a or b
    left, right, made = list(a), list(b), []
    while left:
        size = gcd(left[-1].size, right[-1].size)
        kinds = {_take(left, size).kind, _take(right, size).kind} - {SAME}
        if len(kinds) > 1:
            raise FlowError(how)
        made.append(Part(size, kinds.pop() if kinds else SAME))
    return _simplest(reversed(made))


def _take(parts: list[Part], size: int) -> Part:
    """The last `size` indices of the last part, which keeps the others."""
    part = parts.pop()
    if size == 1:
        raise FlowError(UNKNOWN)
    if part.size > size:
        parts.append(Part(part.size // size, part.kind * size if part.kind > 0 else part.kind))
    return part._replace(size=size)


def _simplest(parts: Iterable[Part]) -> Dim:
    """Neighbours that are one part, as one."""
    made: list[Part] = []
    for part in parts:
        step = part.kind * part.size if part.kind > 0 else part.kind
        if made and made[-1].kind == step:
            part = part._replace(size=part.size * made.pop().size)
        made.append(part)
    return tuple(made)


def regroup(flow: Flow, shape: Sequence[int]) -> Flow:
    """The flow after a reshape: parts stay in row-major order, and are dealt out to other dims.

    Raises:
      FlowError: a dim begins or ends in the middle of a part of the axis.
    """
    parts = _simplest(part for dim in flow.dims for part in dim)
    try:
        return flow._replace(dims=_deal(parts, shape))
    except FlowError:  # where the value is the same may be cut otherwise, if that is forgotten
        forgotten = (part._replace(kind=part.kind or DIFFERS) for part in parts)
        return flow._replace(dims=_deal(_simplest(forgotten), shape))


def _deal(parts: Dim, shape: Sequence[int]) -> tuple[Dim, ...]:
    left, dims = list(parts), []
    for size in reversed(shape):
        dim = []
        while size > 1 and left:
            dim.append(_take(left, gcd(size, left[-1].size)))
            size //= dim[-1].size
        dims.append(_simplest(reversed(dim)))
    return tuple(reversed(dims))


def merge(before: Flow, after: Flow) -> Flow:
    """The flow of what a loop carries; a broken one stays as it broke first."""
    if before.broken or after.broken:
        return before if before.broken else after
    return join([before, after])


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of a variable of a program."""
    return value.aval.shape
