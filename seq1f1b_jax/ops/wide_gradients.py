"""Weight gradients that no unit rounds: their last matmul or sum gives the accumulation dtype.

A vjp returns the gradient of a weight in the weight's own dtype. In bfloat16 the matmul behind it
sums in float32 and rounds what it hands over, once per unit, and the executor adds that to a
float32 accumulator. `widen` traces a backward and walks from every weight gradient back to what it
comes from, as long as nothing else reads the values between:

    dw:bf16 = transpose(dot_general(dy, x):bf16)
    dw:f32  = transpose(dot_general(dy, x; preferred_element_type=f32):f32)

The walk ends at a matmul or a sum over tokens, which then gives the wide dtype itself, and at a
rounding, which is left out. It passes what moves values and what adds or scales them. Operands of
matmuls stay narrow: no matmul gets slower. A gradient that comes from elsewhere (a loop, a scatter)
is what it was.

A matmul at which the walk ends sums over sequences and tokens. These dims are joined to one first,
whatever the dtype: XLA:CPU transposes an operand that is summed over two dims, and took half as
long again for the gradient of an MLP's matmul (docs/design/gpu_program.md).

On a CPU, where a matmul of bfloat16 is one of float32 between casts, the operands are cast: XLA:CPU
accepts narrow operands with a wide result, but cannot run all such programs (jaxlib 0.10.2, 0.12.0:
two contracted dims and a transposed result).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Literal
from jaxtyping import DTypeLike

from seq1f1b_jax.ops.flat_jaxpr import Graph, evaluate, flat_jaxpr, value_of

_MATMUL, _SUM, _CAST = "dot_general", "reduce_sum", "convert_element_type"

_PASSED = frozenset(
    "transpose reshape squeeze expand_dims rev copy slice dynamic_slice pad concatenate select_n"
    " broadcast_in_dim dynamic_update_slice neg add add_any sub mul div".split()
)
"""Primitives that do in the wide dtype what they do in the narrow one, for wide operands."""


def is_narrow(dtype: DTypeLike, wide: DTypeLike) -> bool:
    """Whether a dtype is of floats that another one holds and that have less precision.

    Example:
      >>> is_narrow("bfloat16", "float32"), is_narrow("float32", "float32"), is_narrow("int8", "f4")
      (True, False, False)
    """
    floats = jnp.issubdtype(dtype, jnp.floating)
    return bool(floats and dtype != wide and jnp.promote_types(dtype, wide) == wide)


def widen(
    backward: Callable,
    kept: Any,
    given: Any,
    *,
    dtype: DTypeLike,
    platform: str,
    environment: Sequence[tuple[str, int]] = (),
) -> Callable:
    """The same backward, whose weight gradients are not rounded last.

    Args:
      backward: `(kept, given) -> (weight_grads, results)`.
      kept: shapes of its first argument.
      given: shapes of its second.
      dtype: of the weight gradients.
      platform: of the devices.
      environment: mesh axes that the backward uses, with their sizes.

    Returns:
      `(kept, given) -> (weight_grads, results)`. Results are the same bits.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> x, w = jnp.ones((2, 4), "bfloat16"), jnp.ones((4, 3), "bfloat16")
      >>> def backward(kept, given):
      ...     return jax.vjp(jnp.matmul, *kept)[1](given)[::-1]  # dw, dx
      >>> dw, dx = widen(backward, (x, w), x @ w, dtype="float32", platform="cpu")(
      ...     (x, w), x @ w
      ... )
      >>> dw.dtype, dx.dtype
      (dtype('float32'), dtype(bfloat16))
    """
    closed, out_tree = flat_jaxpr(backward, kept, given, environment=environment)
    jaxpr, dtype = closed.jaxpr, jnp.dtype(dtype)
    grads = jaxpr.outvars[: out_tree.children()[0].num_leaves]
    needed = Graph(jaxpr).ancestors(jaxpr.outvars)
    equations = [e for e in jaxpr.eqns if not needed.isdisjoint(e.outvars)]
    ends = _ends(jaxpr.replace(eqns=equations), grads, dtype)

    def wide_backward(kept_values: Any, given_values: Any):
        values = [*jax.tree.leaves(kept_values), *jax.tree.leaves(given_values)]
        known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *values), strict=True))
        for eqn in equations:
            if ends.isdisjoint(eqn.outvars):
                outputs = evaluate(jaxpr, [eqn], known, eqn.outvars)
            else:
                outputs = [_rewritten(eqn, known, dtype, platform)]
            known.update(zip(eqn.outvars, outputs, strict=True))
        return jax.tree.unflatten(out_tree, [value_of(var, known) for var in jaxpr.outvars])

    return wide_backward


def _ends(jaxpr, grads: Iterable, dtype: jnp.dtype) -> set:
    """The variables behind weight gradients that become wide, and the matmuls among them."""
    producer = Graph(jaxpr).producer
    readers: dict = {}
    for var in (*jaxpr.outvars, *(v for eqn in jaxpr.eqns for v in eqn.invars)):
        if not isinstance(var, Literal):
            readers[var] = readers.get(var, 0) + 1
    found = set()

    def walk(var) -> bool:
        if isinstance(var, Literal) or var not in producer or readers[var] > 1:
            return False
        name, operands = producer[var].primitive.name, producer[var].invars
        narrow = is_narrow(var.aval.dtype, dtype)
        rounds = narrow and name == _CAST and _holds_more(operands[0].aval.dtype, dtype)
        ends = name == _MATMUL or rounds
        if not ends and name in (_SUM, _CAST, *_PASSED):
            ends = any([walk(operand) for operand in operands]) or name == _SUM
        if ends and (narrow or name == _MATMUL):
            found.add(var)
        return ends

    for var in grads:
        walk(var)
    return found


def _holds_more(dtype: jnp.dtype, wide: jnp.dtype) -> bool:
    """Whether floats are at least as wide: casting them to a narrow dtype rounds."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.promote_types(dtype, wide) == dtype


def _rewritten(eqn, known: dict, dtype: jnp.dtype, platform: str) -> jax.Array:
    """What an equation gives in the wide dtype, a matmul by one summed dim."""
    operands, params = [jnp.asarray(value_of(var, known)) for var in eqn.invars], eqn.params
    if eqn.primitive.name == _CAST:
        return operands[0].astype(dtype)
    if eqn.primitive.name == _MATMUL:
        operands, params = _joined(operands, params)
        if is_narrow(eqn.outvars[0].aval.dtype, dtype):
            params = params | {"preferred_element_type": dtype}
    if eqn.primitive.name != _MATMUL or platform == "cpu":
        operands = [x.astype(dtype) if is_narrow(x.dtype, dtype) else x for x in operands]
    return eqn.primitive.bind(*operands, **params)


def _joined(operands: list[jax.Array], params: dict) -> tuple[list[jax.Array], dict]:
    """A matmul that sums over the leading dims of both operands, with these dims as one."""
    (left, right), batch = params["dimension_numbers"]
    count = len(left)
    if count < 2 or any(batch) or not left == right == tuple(range(count)):
        return operands, params
    operands = [x.reshape(-1, *x.shape[count:]) for x in operands]
    return operands, params | {"dimension_numbers": (((0,), (0,)), ((), ()))}
