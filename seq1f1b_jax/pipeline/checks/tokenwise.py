"""That a function keeps tokens apart, and sequences: read in its program, or seen in its values."""

import math
import warnings

import jax
from jax.extend.core import ClosedJaxpr

from seq1f1b_jax.pipeline.checks.flow import (
    DIFFERS,
    INDEX,
    MIXES,
    SUREST_FIRST,
    UNKNOWN,
    Broken,
    Flow,
    along,
    axis_size,
    constant,
    whole,
)
from seq1f1b_jax.pipeline.checks.follow import follow
from seq1f1b_jax.pipeline.checks.pieces import SEQUENCES, TOKENS, Piece
from seq1f1b_jax.pipeline.checks.probe import MAX_PARAMS, differs

DIMS = {"sequence": 0, "token": 1}


def check_tokenwise(piece: Piece, program: ClosedJaxpr) -> None:
    """Refuse a function of which an output, or a gradient of an input, depends on another token.

    What its program leaves open is read from its values. A function that is too large to be run is
    refused where it picks or moves tokens, as a shift does, and accepted with a warning where a
    primitive cannot be read.

    Args:
      piece: the function.
      program: its `with_gradients`.

    Raises:
      ValueError: which output depends on other tokens or sequences, or on their index in the chunk,
        and the primitive that brings them together.
    """
    num_params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(piece.weights))
    for unit, dim in DIMS.items():
        broken = _broken(program, piece, dim)
        if broken is None:
            continue
        result, (how, primitive) = broken
        seen = True if how in (MIXES, INDEX) else None
        if seen is None and num_params <= MAX_PARAMS:
            seen = differs(piece.with_gradients, piece.arguments_with_cotangents, dim=dim)
        if seen is False:
            continue
        if how == INDEX:
            raise ValueError(
                f"{piece.name} returned {result} that depends on where in the chunk a {unit} "
                f"is ({primitive}); functions must be token-wise, and `positions` count from "
                "the start of the sequence"
            )
        run = "a run gives NaN" if num_params <= MAX_PARAMS else "it is too large to be run"
        verb, why = ("depends", primitive) if seen else ("may depend", f"{primitive}, and {run}")
        line = f"{piece.name} returned {result} that {verb} on other {unit}s ({why}); "
        if seen is None and how == UNKNOWN:
            warnings.warn(
                f"{line}run check_stage on the same class in a smaller size", stacklevel=2
            )
            continue
        cure = "" if seen else "; if it works in blocks of tokens, use jax.lax.map"
        raise ValueError(
            f"{line}functions must be token-wise: only attention, which the executor calls, looks "
            f"back{cure}"
        )


def _broken(program: ClosedJaxpr, piece: Piece, dim: int) -> tuple[str, Broken] | None:
    """The result in which the elements of `dim` most surely do not stay apart, and why."""
    weights, at, *values = piece.arguments_with_cotangents
    flows = [constant(leaf.shape) for leaf in jax.tree.leaves(weights)]
    place = dim - (2 - len(at.shape))  # negative: positions are those of all sequences
    flows.append(along(at.shape, place) if place >= 0 else constant(at.shape))
    flows += [along(leaf.shape, dim) for leaf in jax.tree.leaves(values)]
    reasons = [_why(flow, dim) for flow in follow(program, flows)]
    found = [(name, why) for name, why in zip(piece.results, reasons, strict=True) if why]
    return min(found, key=lambda pair: SUREST_FIRST.index(pair[1].how), default=None)


def _why(flow: Flow, dim: int) -> Broken | None:
    """How the flow of a result is broken."""
    if flow.broken:
        return flow.broken
    if flow.loops is None:
        differs = any(part.kind == DIFFERS for part in flow.dims[dim])
        return Broken(INDEX, "it is a constant") if differs else None
    where = {at: parts for at, parts in enumerate(flow.dims) if axis_size(parts) > 1}
    apart = where == {dim: whole((SEQUENCES, TOKENS)[dim], 1)}
    return None if apart else Broken(MIXES, "it is in another dim")
