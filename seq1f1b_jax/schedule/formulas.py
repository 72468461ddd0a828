"""What Seq1F1B costs in closed form, exact for units of equal cost. Simulation must agree."""


def peak_units_formula(
    *, num_stages: int, num_microbatches: int, num_chunks: int, extra_warmup: int = 0
) -> tuple[int, ...]:
    """Units alive at each rank's fullest moment: `min(P-p-1+C+extra_warmup, M*C)`.

    The warm-up of `P-p-2+C` forwards and the one that opens the steady phase.
    GPipe is the case of an `extra_warmup` of everything.

    Example:
      >>> peak_units_formula(num_stages=4, num_microbatches=4, num_chunks=2)
      (5, 4, 3, 2)
    """
    num_units = num_microbatches * num_chunks
    return tuple(
        min(num_stages - rank - 1 + num_chunks + extra_warmup, num_units)
        for rank in range(num_stages)
    )


def bubble_formula(num_stages: int, forward: float, backward: float) -> float:
    """Time each rank waits in a step: `(P-1)(F+B)`, with F and B the cost of one unit.

    In terms of whole microbatches, `f = C*F` and `b = C*B`, it is `(P-1)(f+b)/C`.
    """
    return (num_stages - 1) * (forward + backward)


def bubble_fraction_formula(num_stages: int, num_units: int) -> float:
    """Share of a step that each rank waits: `(P-1)/(P-1+M*C)`, for any F and B."""
    return (num_stages - 1) / (num_stages - 1 + num_units)
