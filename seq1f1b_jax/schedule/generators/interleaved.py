"""Interleaved Seq1F1B: V stages per rank, a V-th of the bubble. With one chunk 1F1B-I.

Two ranks, two stages each (rank 0: stages 0 and 2), two microbatches, one chunk, B as
long as F:

    rank 0  F0.0   F1.0   F0.0@2 F1.0@2 ...... B0.0@2 ...... B1.0@2 B0.0   B1.0
    rank 1  ...... F0.0   F1.0   F0.0@3 B0.0@3 F1.0@3 B1.0@3 B0.0   B1.0   ......

Microbatches go through the model in groups of `g` units: all units of a group through the rank's
first stage, then through its second, and so on; backwards likewise from the last stage down. A unit
comes back to rank 0 after P steps, so a group of at least P units never waits for itself. The
published rule takes `g = P`, which needs C to divide P and P to divide M*C, and else deadlocks.
Here a group is whole microbatches, at least P units, and all groups are as equal as they go (the
longer ones first); then any sizes run, and with `M*C >= P` the bubble is that of the formula.

Source: Megatron-LM (arXiv 2104.04473), section 2.2; Seq1F1B (arXiv 2406.03488), section 3.3.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from seq1f1b_jax.schedule.actions import Action
from seq1f1b_jax.schedule.exchange import Exchange
from seq1f1b_jax.schedule.generators.orders import (
    backward_order,
    forward_order,
    one_forward_one_backward,
)
from seq1f1b_jax.schedule.named import Bubble, InFlight, Schedule, Sizes
from seq1f1b_jax.schedule.plan import Plan, check_sizes
from seq1f1b_jax.schedule.simulation.simulate import MACHINES


def interleaved(
    *,
    num_ranks: int,
    num_microbatches: int,
    num_chunks: int,
    stages_per_rank: int = 2,
    short_warmup: bool = False,
) -> Plan:
    """Generate the Seq1F1B-I plan.

    Rank p holds `min((V-1)g + 2(P-p-1) + C, V*M*C)` units of one stage, with g the units of the
    first group: P where C divides P and P divides M*C. Where all units cost the same and
    `M*C >= P`, the bubble lasts `(P-1)(F+B)/V`, with F and B the times of a unit on all of a rank's
    stages.

    Args:
      num_ranks: ranks of the pipeline P, at least 1.
      num_microbatches: sequence batches per step M, at least 1.
      num_chunks: slices of each sequence C, at least 1.
      stages_per_rank: stages per rank V, at least 2.
      short_warmup: warm up with `(V-1)g + (P-p) + C-2` forwards instead of
        `(V-1)g + 2(P-p-1) + C-1`: P-p-1 fewer units in flight on rank p. On the asynchronous
        machine the time is the same (tested for P to 7, V to 3, any B/F). In the executor it is
        longer: a message takes a double tick each way, the gradient of a unit comes back 2(P-p-1)
        double ticks after its forward, and a rank that warms up for half of them idles for a part
        of the other half (P=8, M=16, C=4, V=2, B=2F: 1.25 times the time). Use it for comparisons,
        or where memory is the limit.

    Returns:
      A valid plan of exchange `lockstep`.

    Raises:
      ValueError: a size is below 1, or `stages_per_rank` is below 2.
    """
    if stages_per_rank < 2:
        raise ValueError(
            f"stages_per_rank={stages_per_rank} leaves nothing to interleave; use 2 or more, or the"
            " schedule seq1f1b"
        )
    groups = group_sizes(num_ranks, num_microbatches, num_chunks)

    def row(rank: int) -> tuple[Action, ...]:
        stages = range(rank, num_ranks * stages_per_rank, num_ranks)
        distance = num_ranks - rank - 1
        warmup = distance if short_warmup else 2 * distance
        return one_forward_one_backward(
            tuple(_by_groups(forward_order, stages, groups, num_chunks)),
            tuple(_by_groups(backward_order, stages[::-1], groups, num_chunks)),
            num_warmup=(stages_per_rank - 1) * groups[0] * num_chunks + warmup + num_chunks - 1,
        )

    return Plan(
        "seq1f1b-i",
        num_ranks,
        num_microbatches,
        num_chunks,
        tuple(row(rank) for rank in range(num_ranks)),
        stages_per_rank=stages_per_rank,
        exchange=Exchange.LOCKSTEP,
    )


def group_sizes(num_ranks: int, num_microbatches: int, num_chunks: int) -> tuple[int, ...]:
    """Microbatches of each group: of at least P units, as equal as they go, longer ones first.

    Example:
      >>> from seq1f1b_jax.schedule.generators.interleaved import group_sizes
      >>> group_sizes(4, 7, 1), group_sizes(4, 8, 2), group_sizes(4, 3, 8)
      ((7,), (2, 2, 2, 2), (1, 1, 1))
    """
    check_sizes(num_ranks=num_ranks, num_microbatches=num_microbatches, num_chunks=num_chunks)
    least = -(-num_ranks // num_chunks)
    num_groups = max(1, num_microbatches // least)
    share, rest = divmod(num_microbatches, num_groups)
    return tuple(share + (group < rest) for group in range(num_groups))


def interleaved_forwards(
    rank: int, *, num_ranks: int, num_microbatches: int, num_chunks: int, stages_per_rank: int
) -> Iterator[Action]:
    """Yield all forwards of a rank in the order of its groups."""
    stages = range(rank, num_ranks * stages_per_rank, num_ranks)
    groups = group_sizes(num_ranks, num_microbatches, num_chunks)
    return _by_groups(forward_order, stages, groups, num_chunks)


def _by_groups(order, stages, groups: tuple[int, ...], num_chunks: int) -> Iterator[Action]:
    """All of a group through one stage, then through the next, then the next group."""
    actions = {stage: tuple(order(stage, sum(groups), num_chunks)) for stage in stages}
    first = 0  # unit
    for size in groups:
        last = first + size * num_chunks
        for stage in stages:
            yield from actions[stage][first:last]
        first = last


def _in_flight(sizes: Sizes) -> InFlight:
    group = sizes.C * group_sizes(sizes.P, sizes.M, sizes.C)[0]
    ahead = (sizes.V - 1) * group + sizes.C
    slope, letters = (1, "P-p-1") if sizes.short_warmup else (2, "2(P-p-1)")
    units = [ahead + slope * distance for distance in sizes.distances]
    return InFlight(units, f"min((V-1)g+{letters}+C, V*M*C), g={group}")


def _bubble(sizes: Sizes, F: Any, B: Any) -> Bubble:
    """Fewer units than ranks leave a gap in every round after the first."""
    machines = MACHINES[:1] if sizes.short_warmup else MACHINES
    stage = Fraction(1, sizes.V) * (F + B)
    if sizes.U >= sizes.P:
        return Bubble((sizes.P - 1) * stage, "(P-1)(F+B)/V", machines)
    gaps = (sizes.V - 1) * (sizes.P - sizes.U)
    return Bubble((sizes.P - 1 + gaps) * stage, "(P-1+(V-1)(P-M*C))(F+B)/V", machines)


INTERLEAVED = Schedule(interleaved, _in_flight, _bubble)
