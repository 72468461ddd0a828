"""The rules of a `Stage`, checked before it runs.

No parameter is made: all are shapes, and what a function does with tokens is read in its jaxpr and
in that of its vjp, so a model of any size takes a fraction of a second. Only where that leaves it
open, a function that is small enough is run.
"""

import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr
from jax.tree import leaves_with_path
from jax.tree_util import keystr
from jaxtyping import DTypeLike

from seq1f1b_jax.pipeline.checks.pieces import Piece, pieces_of
from seq1f1b_jax.pipeline.checks.tokenwise import check_tokenwise
from seq1f1b_jax.pipeline.stage import (
    Params,
    Stage,
    kind_stages,
    leaf_name,
    max_positions_of,
    position_tables_of,
)
from seq1f1b_jax.schedule.user_code import MISTAKES

SIZES = ("num_layers", "vocab_size", "model_dim", "num_heads", "num_kv_heads", "head_dim")
FUNCTIONS = ("init", "context", "embed", "pre", "post", "final")
DTYPES = (jnp.float32, jnp.bfloat16)
CALLS = 8
"""Traces of a function, which must all be the same: by a coin it passes in 1 of 128 cases."""


def check_stage(stage: Any, *, compute_dtype: DTypeLike | None = None) -> None:
    """Refuse a stage that breaks a rule of the protocol; `build_step` does so too.

    Sizes fit together; `init` gives float32 parameters of these sizes; every function returns the
    shapes that the protocol names, in the dtype that it was given, and is the same function at
    every call; none depends on another token or sequence, in values or in gradients, or on where a
    token is in the chunk. The stage that `shard` returns is not checked.

    Args:
      stage: the model.
      compute_dtype: dtype of weights and activations; `None`: float32 and bfloat16, one after the
        other.

    Raises:
      ValueError: what was returned by which function, and the rule, in one line.

    Warns:
      UserWarning: a function has a primitive that cannot be read, and is too large to be run.

    Example:
      >>> from seq1f1b_jax.models import build_stage
      >>> from seq1f1b_jax.pipeline import check_stage
      >>> check_stage(build_stage("llama", preset="30b"))  # no error: it keeps the rules
    """
    default = jnp.result_type(float)
    for dtype in DTYPES if compute_dtype is None else (compute_dtype,):
        try:
            hash(stage)
        except TypeError:
            check_rules(stage, jnp.dtype(dtype))
        else:
            _check_once(stage, jnp.dtype(dtype), default)


@lru_cache(maxsize=128)
def _check_once(stage: Any, dtype: jnp.dtype, default: jnp.dtype) -> None:
    """A stage that keeps the rules is not checked again, under the same default dtype of JAX."""
    check_rules(stage, dtype)


def check_rules(stage: Any, dtype: jnp.dtype) -> None:
    """`check_stage` without its cache."""
    _check_sizes(stage)
    params, stages = _check_init(stage), kind_stages(stage).values()
    for piece in (piece for one in stages for piece in pieces_of(one, params, dtype)):
        _check_outputs(piece)
        make = jax.make_jaxpr(piece.with_gradients)
        program = _traced(piece.name, partial(make, *piece.arguments_with_cotangents))
        check_tokenwise(piece, program)


def _check_sizes(stage: Any) -> None:
    name = type(stage).__name__
    missing = [member for member in (*SIZES, "tied", *FUNCTIONS) if not hasattr(stage, member)]
    if missing:
        raise ValueError(
            f"{name} has no {', '.join(missing)}; a stage has {', '.join((*SIZES, 'tied'))} and "
            f"the functions {', '.join(FUNCTIONS)}"
        )
    for size in SIZES:
        value = getattr(stage, size)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name}.{size} is {value!r}; it must be a whole number above 0")
    if stage.num_heads % stage.num_kv_heads:
        raise ValueError(
            f"{name}.num_heads={stage.num_heads} is not a multiple of num_kv_heads="
            f"{stage.num_kv_heads}; each key/value head serves equally many query heads"
        )
    window = getattr(stage, "window", None)
    if window is not None and (not isinstance(window, int) or window < 1):
        raise ValueError(f"{name}.window is {window!r}; it must count 1 or more keys, or be None")
    _check_kinds(stage)
    positions = max_positions_of(stage)
    if positions is not None and (not isinstance(positions, int) or positions < 1):
        raise ValueError(
            f"{name}.max_positions is {positions!r}; it must count 1 or more positions, or be None"
        )


def _check_kinds(stage: Any) -> None:
    name, kinds = type(stage).__name__, getattr(stage, "layer_kinds", None)
    if not kinds:
        return
    if len(kinds) != stage.num_layers:
        raise ValueError(
            f"{name}.layer_kinds names {len(kinds)} layers, and num_layers is {stage.num_layers}; "
            "give one for each layer"
        )
    if not hasattr(stage, "of_kind"):
        raise ValueError(
            f"{name}.layer_kinds is given and {name} has no of_kind(kind); it gives the stage "
            "whose context, pre, post and scoring are those of such a layer"
        )
    for kind, one in _traced(f"{name}.of_kind", lambda: kind_stages(stage)).items():
        if getattr(one, "layer_kinds", None):
            raise ValueError(
                f"{name}.of_kind({kind!r}) has layer_kinds, too; it must be a stage of one kind"
            )


def _check_init(stage: Stage) -> Params:
    """Shapes of the parameters."""
    name = f"{type(stage).__name__}.init"
    params = _traced(name, partial(jax.eval_shape, stage.init, jax.random.key(0)))
    if not isinstance(params, Params):
        raise ValueError(
            f"{name} returned {_text(params)}; it must return pipeline.Params(layers, first, last, "
            "embedding, head)"
        )
    for path, leaf in leaves_with_path(params):
        if leaf.dtype not in (jnp.float32, jnp.result_type(float)):
            raise ValueError(
                f"{name} returned {keystr(path)} as {_text(leaf)}; parameters must be float32, the "
                "executor casts them to the compute dtype"
            )
    for path, leaf in leaves_with_path(params.layers):
        if leaf.shape[:1] != (stage.num_layers,):
            raise ValueError(
                f"{name} returned .layers{keystr(path)} as {_text(leaf)}; leaves of layers must be "
                f"[num_layers, ...], and num_layers is {stage.num_layers}"
            )
    if (params.head is None) != bool(stage.tied):
        given = "None" if params.head is None else _text(params.head)
        raise ValueError(
            f"{name} returned .head as {given} and {type(stage).__name__}.tied is {stage.tied}; it "
            "must be None if tied is True, and only then"
        )
    _check_position_tables(stage, params)
    rows = (stage.vocab_size, stage.model_dim)
    for table in ("embedding",) if params.head is None else ("embedding", "head"):
        if getattr(getattr(params, table), "shape", None) != rows:
            raise ValueError(
                f"{name} returned .{table} as {_text(getattr(params, table))}; it must be "
                f"[vocab_size, model_dim], which is {list(rows)}"
            )
    return params


def _check_position_tables(stage: Stage, params: Params) -> None:
    found, name = Params({}, params.first, {}, None, None), type(stage).__name__
    leaves = {leaf_name(path): leaf for path, leaf in leaves_with_path(found)}
    for table in position_tables_of(stage):
        shape = getattr(leaves.get(table), "shape", ())
        if len(shape) != 2 or shape[0] != max_positions_of(stage):
            given = _text(leaves[table]) if table in leaves else f"not one of {sorted(leaves)}"
            raise ValueError(
                f"{name}.position_tables names {table!r}, which is {given}; it must be a leaf of "
                f".first, [max_positions, n], and {name}.max_positions is {max_positions_of(stage)}"
            )


def _check_outputs(piece: Piece) -> None:
    """Shapes and dtypes, and that every call is the same program."""

    def trace() -> tuple[ClosedJaxpr, Any]:
        function = lambda *arguments: piece.call(*arguments)  # noqa: E731 - new, so never cached
        return jax.make_jaxpr(function, return_shape=True)(*piece.arguments)

    program, outputs = _traced(piece.name, trace)
    returned = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    wanted = [f"{name} {_text(shape)}" for name, shape in piece.outputs.items()]
    if [_text(value) for value in returned] != [_text(s) for s in piece.outputs.values()]:
        given = [f"{name} {_text(shape)}" for name, shape in piece.inputs.items()]
        raise ValueError(
            f"{piece.name} returned {', '.join(map(_text, returned))} for {', '.join(given)}; it "
            f"must return {', '.join(wanted)}, in the dtype that it was given"
        )
    for _ in range(1, CALLS):
        if not _same(program, _traced(piece.name, trace)[0]):
            raise ValueError(
                f"{piece.name} returned something else at another call; it must be a pure "
                "function: no random numbers of NumPy, no clock, no state (the backward calls it "
                "again)"
            )


def _same(program: ClosedJaxpr, other: ClosedJaxpr) -> bool:
    first, second = (re.sub("0x[0-9a-f]+", "", str(p.jaxpr)) for p in (program, other))
    if first != second or len(program.consts) != len(other.consts):  # but for addresses of objects
        return False
    pairs = zip(program.consts, other.consts, strict=True)
    return all(a is b or bool(jnp.array_equal(a, b, equal_nan=True)) for a, b in pairs)


def _traced(name: str, trace: Callable[[], Any]) -> Any:
    """What `trace` returns; a mistake in the function as one line."""
    try:
        return trace()
    except MISTAKES as error:
        reason = (str(error).strip() or "no message").splitlines()[0]
        raise ValueError(
            f"{name} raised {type(error).__name__} when its shapes were traced: {reason}"
        ) from error


def _text(value: Any) -> str:
    """An array as `float32[2, 8, 4]`, anything else as its type."""
    if not hasattr(value, "shape"):
        return "None" if value is None else f"a {type(value).__name__}"
    return f"{value.dtype}[{', '.join(map(str, value.shape))}]"
