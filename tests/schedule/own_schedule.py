"""A user's own schedule, outside the package: an example, and what tests register."""

from seq1f1b_jax.schedule import (
    MACHINES,
    Action,
    Bubble,
    InFlight,
    Op,
    Plan,
    Schedule,
    Sizes,
)


def in_groups(*, num_ranks: int, num_microbatches: int, num_chunks: int) -> Plan:
    """Generate GPipe in groups of as many microbatches as there are ranks."""

    def row(rank: int) -> tuple[Action, ...]:
        actions, chunks = [], range(num_chunks)
        for first in range(0, num_microbatches, num_ranks):
            group = range(first, min(first + num_ranks, num_microbatches))
            actions += [Action(Op.F, rank, m, c) for m in group for c in chunks]
            actions += [Action(Op.B, rank, m, c) for m in group for c in reversed(chunks)]
        return tuple(actions)

    rows = tuple(row(rank) for rank in range(num_ranks))
    return Plan("in-groups", num_ranks, num_microbatches, num_chunks, rows)


def in_flight(sizes: Sizes) -> InFlight:
    """A group, which is every microbatch where there are fewer than ranks."""
    return InFlight([min(sizes.P, sizes.M) * sizes.C] * sizes.P, "min(P, M)*C")


def bubble(sizes: Sizes, F: float, B: float) -> Bubble:
    """That of GPipe, once for every group."""
    groups = -(-sizes.M // sizes.P)
    return Bubble(groups * (sizes.P - 1) * (F + B), "ceil(M/P)(P-1)(F+B)", MACHINES[:2])


IN_GROUPS = Schedule(in_groups, in_flight, bubble)
