"""That a function keeps tokens apart, and sequences: read in its program, or seen in its values."""

import math

import jax
from jax.extend.core import ClosedJaxpr

from seq1f1b_jax.pipeline.checks.flow import INDEX, MIXES, UNKNOWN, Axis, Broken, Flow
from seq1f1b_jax.pipeline.checks.follow import follow
from seq1f1b_jax.pipeline.checks.pieces import SEQUENCES, TOKENS, Piece
from seq1f1b_jax.pipeline.checks.probe import MAX_PARAMS, differs

DIMS = {"sequence": 0, "token": 1}


def check_tokenwise(piece: Piece, program: ClosedJaxpr) -> None:
    """Refuse a function of which an output, or a gradient of an input, depends on another token.

    What its program does not show is read from its values, where its parameters are few enough to
    be made; a larger one is accepted.

    Args:
      piece: the function.
      program: its `with_gradients`.

    Raises:
      ValueError: which output depends on other tokens or sequences, or on their index in the chunk,
        and the primitive that brings them together.
    """
    for unit, dim in DIMS.items():
        broken = _broken(program, piece, dim)
        if broken is None:
            continue
        result, (how, primitive) = broken
        if how == UNKNOWN:
            small = sum(math.prod(w.shape) for w in jax.tree.leaves(piece.weights)) <= MAX_PARAMS
            shapes = piece.arguments_with_cotangents
            if not (small and differs(piece.with_gradients, shapes, dim=dim)):
                continue
        if how == INDEX:
            raise ValueError(
                f"{piece.name} returned {result} that depends on where in the chunk a {unit} "
                f"is ({primitive}); functions must be token-wise, and `positions` count from "
                "the start of the sequence"
            )
        raise ValueError(
            f"{piece.name} returned {result} that depends on other {unit}s ({primitive}); "
            "functions must be token-wise: only attention, which the executor calls, looks back"
        )


def _broken(program: ClosedJaxpr, piece: Piece, dim: int) -> tuple[str, Broken] | None:
    """The first result in which the elements of `dim` do not stay apart, and why."""
    along = Flow(Axis(dim))
    positions = Flow(Axis(0)) if dim == DIMS["token"] else Flow()
    weights = [Flow()] * len(jax.tree.leaves(piece.weights))
    values = [along] * (len(piece.inputs) + len(piece.outputs))
    flows = follow(program, [*weights, positions, *values], size=(SEQUENCES, TOKENS)[dim])
    for result, flow in zip(piece.results, flows, strict=True):
        if flow.broken:
            return result, flow.broken
        if flow.axis not in (None, Axis(dim)):
            return result, Broken(MIXES, "it is in another dim")
        if flow.axis is None and dim in flow.varies:
            return result, Broken(INDEX, "it is a constant")
    return None
