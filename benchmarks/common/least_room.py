"""The least room that values with known lifetimes need, proven by a constraint solver.

The tokens alive at the fullest tick are a lower bound, which unequal values often cannot reach.
Google's CP-SAT (the extra `packing`) proves a higher one: that values, as rectangles of time and
address, do not fit into less.
"""

from collections.abc import Sequence
from math import gcd

from seq1f1b_jax.schedule.lowering.packing import Interval


def least_room(values: Sequence[Interval], bound: int, total: int, *, seconds: float) -> int:
    """A room below which no packing goes, as high as can be proven.

    Args:
      values: with their lifetimes, in any order.
      bound: what they take at least.
      total: what they take in some packing.
      seconds: for every attempt to prove.
    """
    unit = gcd(*(value.size for value in values))
    low, high = bound // unit, total // unit  # the least is in [low, high]
    while low < high:
        middle = (low + high - 1) // 2
        if fits(values, middle * unit, seconds=seconds) is False:
            low = middle + 1
        else:  # it is not below, or this is not known
            high = middle
    return low * unit


def fits(values: Sequence[Interval], height: int, *, seconds: float) -> bool | None:
    """Whether some packing takes no more than `height`.

    Args:
      values: with their lifetimes, in any order.
      height: room that there is.
      seconds: the solver gives up after.

    Returns:
      `None`: not known, in this time.

    Example:
      >>> from seq1f1b_jax.schedule.lowering.packing import Interval
      >>> values = [Interval(0, 1, 2), Interval(0, 3, 1), Interval(2, 3, 2)]
      >>> fits(values, 3, seconds=10), fits(values, 2, seconds=10)  # doctest: +SKIP
      (True, False)
    """
    from ortools.sat.python import cp_model

    unit = gcd(*(value.size for value in values))
    height //= unit
    model = cp_model.CpModel()
    times, rooms, sizes = [], [], []
    for value in values:
        size = value.size // unit
        if size > height:
            return False
        offset = model.new_int_var(0, height - size, "")
        alive = value.end + 1 - value.start
        times.append(model.new_fixed_size_interval_var(value.start, alive, ""))
        rooms.append(model.new_fixed_size_interval_var(offset, size, ""))
        sizes.append(size)
    model.add_no_overlap_2d(times, rooms)
    model.add_cumulative(times, sizes, height)  # implied by it, and prunes much
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return False
    return True if status in (cp_model.OPTIMAL, cp_model.FEASIBLE) else None
