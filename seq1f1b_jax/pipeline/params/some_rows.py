"""A few rows of what a traced function gives, computed without the others.

XLA removes unused results, but takes a slice of a large random array from the whole array. So the
traced program is walked backwards from the wanted rows: elementwise operations need the same rows
of their operands, a broadcast those of its operand or all of a smaller one, and random bits of one
key are a hash of their index in the array (`jax_threefry_partitionable`). The
operations are those of the program on shorter arrays, so the values are the same, bit by bit.

Source of the hash: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (2011), section 3.3.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.extend.random import threefry2x32_p

ELEMENTWISE = frozenset(
    "abs add and bitcast_convert_type clamp convert_element_type copy cos div eq erf erf_inv exp "
    "exp2 expm1 ge gt integer_pow is_finite le log log1p logistic lt max min mul ne neg nextafter "
    "not or pow random_fold_in rem round rsqrt select_n shift_left shift_right_arithmetic "
    "shift_right_logical sign sin sqrt square sub tan tanh xor".split()
)
RANDOM = frozenset({"random_bits", "random_fold_in", "random_split"})
BATCHED = RANDOM | {"random_unwrap", "random_wrap"}
"""What treats the leading dims of keys one by one, where they are keys of threefry."""

CALLS = {
    "jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr", "checkpoint": "jaxpr", "remat2": "jaxpr",
}  # fmt: skip
"""Primitives that run a program, and the parameter that is it."""


def some_rows(traced: ClosedJaxpr, at: int, count: int) -> Callable[..., jax.Array] | None:
    """A compiled function for `count` rows of one output.

    Args:
      traced: the function (`jax.make_jaxpr`).
      at: which of its outputs, counted in the flat order.
      count: rows that are made at a time.

    Returns:
      `(*args, start) -> rows start ... start + count - 1`; `None` where they cannot be made apart.

    Example:
      >>> import jax
      >>> from seq1f1b_jax.pipeline.params.some_rows import some_rows
      >>> def table(key):
      ...     return 0.02 * jax.random.normal(key, (1000, 8))
      >>> key = jax.random.key(0)
      >>> make = some_rows(jax.make_jaxpr(table)(key), 0, count=2)
      >>> bool((make(key, 700) == jax.jit(table)(key)[700:702]).all())
      True
    """
    out = traced.jaxpr.outvars[at]
    limit = count * prod(_shape(out)[1:])
    apart = []

    def rows(*args: Any) -> jax.Array:
        demand = _Demand(jnp.asarray(args[-1], jnp.int32), count, limit)
        inputs = [_Input(arg, demand) for arg in args[:-1]]
        made = _Scope(traced.jaxpr, traced.consts, inputs, demand).rows(out)
        apart.append(demand.apart)
        return made

    given: list[Any] = [var.aval for var in traced.jaxpr.invars]
    shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in given]
    jax.eval_shape(rows, *shapes, np.int32(0))
    return jax.jit(rows) if all(apart) else None


class _Demand:
    """Which rows are wanted.

    Attributes:
      start: the first; an int32 that is traced.
      count: how many.
      limit: entries of an array that may be made whole.
      apart: whether no larger one was.
    """

    def __init__(self, start: jax.Array, count: int, limit: int):
        self.start, self.count, self.limit, self.apart = start, count, limit, True

    def take(self, whole: Any) -> jax.Array:
        """The rows of a whole array."""
        self.note(whole)
        return lax.dynamic_slice_in_dim(whole, self.start, self.count)

    def note(self, *made: Any) -> None:
        """Arrays that are made whole."""
        self.apart &= all(np.size(whole) <= self.limit for whole in made)


class _Input:
    """A value from outside a program, whole or in rows."""

    def __init__(self, value: Any, demand: _Demand):
        self.whole, self.rows = lambda: value, lambda: demand.take(value)


class _Inner(_Input):
    """An operand of a call, read in the scope of the call."""

    def __init__(self, scope: "_Scope", atom: Any):
        self.whole, self.rows = lambda: scope.whole(atom), lambda: scope.rows(atom)


class _Scope:
    """A program whose values are computed on demand, each once."""

    def __init__(
        self, jaxpr: Jaxpr, consts: Sequence[Any], inputs: Sequence[_Input], demand: _Demand
    ):
        self.demand = demand
        self.inputs = dict(zip(jaxpr.invars, inputs, strict=True))
        self.inputs |= {
            var: _Input(const, demand)
            for var, const in zip(jaxpr.constvars, consts, strict=True)
        }
        self.source = {var: (eqn, at) for eqn in jaxpr.eqns for at, var in enumerate(eqn.outvars)}
        self.wholes: dict[Var, Any] = {}
        self.parts: dict[Var, Any] = {}
        self.scopes: dict[int, _Scope] = {}

    def whole(self, atom: Any) -> Any:
        if isinstance(atom, Literal):
            return atom.val
        if atom in self.inputs:
            return self.inputs[atom].whole()
        if atom not in self.wholes:
            eqn, at = self.source[atom]
            if eqn.primitive.name in CALLS:
                scope, out = self._call(eqn, at)
                return scope.whole(out)
            made = _run(eqn, *map(self.whole, eqn.invars))
            self.demand.note(*made)
            self.wholes |= zip(eqn.outvars, made, strict=True)
        return self.wholes[atom]

    def rows(self, atom: Any) -> Any:
        if isinstance(atom, Literal):
            return self.demand.take(atom.val)
        if atom in self.inputs:
            return self.inputs[atom].rows()
        if atom not in self.parts:
            eqn, at = self.source[atom]
            made = self._rows(eqn, at)
            self.parts[atom] = self.demand.take(self.whole(atom)) if made is None else made
        return self.parts[atom]

    def _rows(self, eqn: JaxprEqn, at: int) -> Any:
        """Rows of what an operation gives; `None`: there is no rule for it."""
        name, params, shape = eqn.primitive.name, eqn.params, _shape(eqn.outvars[at])
        start, short = self.demand.start, (self.demand.count, *shape[1:])
        first = eqn.invars[0] if eqn.invars else None
        lead = _shape(first)[:1]  # the first dim of the first operand, if any
        if name in CALLS:
            scope, out = self._call(eqn, at)
            return scope.rows(out)
        if name in RANDOM and lead and not _is_threefry(self.rows(first)):
            return None  # another generator draws for all keys at once
        if name in ELEMENTWISE:
            return _run(eqn, *(self._alike(var, shape) for var in eqn.invars))[0]
        if name in BATCHED and lead == shape[:1]:
            return _run(eqn, self.rows(first))[0]
        if name == "random_bits" and not lead:
            return random_bits(self.whole(first), start, short, bit_width=params["bit_width"])
        if name == "broadcast_in_dim":
            dims = params["broadcast_dimensions"]
            along = dims[:1] == (0,) and lead == shape[:1]
            operand = self.rows(first) if along else self.whole(first)
            return lax.broadcast_in_dim(operand, short, dims)
        if name == "reshape" and lead == shape[:1]:
            return lax.reshape(self.rows(first), short)
        if name == "iota":
            counts = lax.broadcasted_iota(params["dtype"], short, params["dimension"])
            return counts if params["dimension"] else counts + start.astype(counts.dtype)
        return None

    def _call(self, eqn: JaxprEqn, at: int) -> tuple["_Scope", Any]:
        """The program that a call runs, and what of it the output is."""
        called = eqn.params[CALLS[eqn.primitive.name]]
        inner, consts = getattr(called, "jaxpr", called), getattr(called, "consts", ())
        if id(eqn) not in self.scopes:
            inputs = [_Inner(self, var) for var in eqn.invars]
            self.scopes[id(eqn)] = _Scope(inner, consts, inputs, self.demand)
        return self.scopes[id(eqn)], inner.outvars[at]

    def _alike(self, var: Any, shape: tuple[int, ...]) -> Any:
        """An operand of an elementwise operation: its rows, or all of what is spread over them."""
        return self.rows(var) if _shape(var)[:1] == shape[:1] else self.whole(var)


def _shape(var: Any) -> tuple[int, ...]:
    return () if var is None else var.aval.shape


def _run(eqn: JaxprEqn, *operands: Any) -> Sequence[Any]:
    made = eqn.primitive.bind(*operands, **eqn.params)
    return made if eqn.primitive.multiple_results else [made]


def random_bits(
    key: Any, start: jax.Array, shape: tuple[int, ...], *, bit_width: int
) -> jax.Array | None:
    """Rows `start ...` of `jax.random.bits` of one key; `shape` is of these rows.

    An entry is a hash of its index in the flat array, 64 bits in two words. `None`: another kind of
    key, or of entry.
    """
    settings: Any = jax.config
    known = settings.jax_threefry_partitionable and _is_threefry(key)
    if not known or bit_width != 32 or prod(shape) >= 2**32:
        return None
    high, low = _product(start.astype(jnp.uint32), prod(shape[1:]))
    indices = lax.iota(jnp.uint32, prod(shape)).reshape(shape) + low
    carried = high + (indices < low).astype(jnp.uint32)
    one, two = jax.random.key_data(key)
    first, second = threefry2x32_p.bind(one, two, carried, indices)
    return first ^ second


def _is_threefry(key: Any) -> bool:
    return jax.random.key_impl(key) == "threefry2x32"


def _product(a: jax.Array, b: int) -> tuple[jax.Array, jax.Array]:
    """Two words, high and low, of the product of two of 32 bits, by halves of 16."""
    half = 0xFFFF
    a_low, a_high, b_low, b_high = a & half, a >> 16, np.uint32(b & half), np.uint32(b >> 16)
    low, one, two = a_low * b_low, a_high * b_low, a_low * b_high
    middle = (low >> 16) + (one & half) + (two & half)
    high = a_high * b_high + (one >> 16) + (two >> 16) + (middle >> 16)
    return high, (middle << 16) | (low & half)
