"""Where an axis is in a value of a program, and how two values combine."""

from collections.abc import Sequence
from typing import Any, NamedTuple

MIXES, INDEX, UNKNOWN = "mixes", "index", "unknown"
"""How a flow breaks: elements of the axis mix; their index alone makes a difference; by a primitive
without a rule here."""


class Axis(NamedTuple):
    """Where the axis of size `n` is: index `i` of it is at `(outer * n + i) * inner + rest`.

    `inner` is 1 and `outer` 0 unless a reshape has merged it with other dims.
    """

    dim: int
    inner: int = 1


class Broken(NamedTuple):
    """How a flow broke, and the primitive that broke it."""

    how: str
    primitive: str


class Flow(NamedTuple):
    """What a value has to do with the axis.

    Attributes:
      axis: where it is; the value's element at index `i` depends on that index only.
      varies: dims along which a value that does not depend on the axis differs.
      broken: what became of it otherwise.
    """

    axis: Axis | None = None
    varies: frozenset[int] = frozenset()
    broken: Broken | None = None


class FlowError(Exception):
    """The flow breaks here; `how` is one of the three ways."""

    def __init__(self, how: str):
        super().__init__(how)
        self.how = how


def join(flows: Sequence[Flow]) -> Flow:
    """The flow of values of one shape that combine element by element.

    Raises:
      FlowError: the axis is elsewhere in one of them, or one differs along it.
    """
    axes = {flow.axis for flow in flows if flow.axis}
    if len(axes) > 1:
        raise FlowError(MIXES)
    varies = frozenset[int]().union(*(flow.varies for flow in flows if not flow.axis))
    if not axes:
        return Flow(varies=varies)
    axis = axes.pop()
    if axis.dim in varies:
        raise FlowError(INDEX)
    return Flow(axis)


def merge(before: Flow, after: Flow) -> Flow:
    """The flow of what a loop carries; a broken one stays as it broke first."""
    if before.broken or after.broken:
        return before if before.broken else after
    return join([before, after])


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of a variable of a program."""
    return value.aval.shape


def nothing_of(shape: Sequence[int]) -> Flow:
    """The flow of a value that does not depend on the axis, and of which no more is known."""
    return Flow(varies=frozenset(dim for dim, size in enumerate(shape) if size > 1))
