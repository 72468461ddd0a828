"""Seq1F1B: one forward, one backward, by chunks of a sequence. With one chunk it is 1F1B.

    rank 0  F0.0 F0.1 F1.0 .... .... B0.1----- F1.1 B0.0----- .... B1.1----- B1.0-----
    rank 1  .... F0.0 F0.1 B0.1----- F1.0 B0.0----- F1.1 B1.1----- B1.0----- .... ....

With `w` warm-up forwards the first backward on the last rank is that of its unit `C-1`, so
`w = C-1` there, and each rank before it needs one more, the time of a message down and one back up.

A rank alone waits for nobody, so nothing is gained by a second microbatch in flight: there all
chunks of a microbatch run forward, then all of them backward.

    rank 0  F0.0 F0.1 B0.1----- B0.0----- F1.0 F1.1 B1.1----- B1.0-----

Source: Seq1F1B (arXiv 2406.03488), section 3.2.
"""

from typing import Any

from seq1f1b_jax.schedule.exchange import Exchange
from seq1f1b_jax.schedule.generators.orders import (
    backward_order,
    forward_order,
    microbatch_by_microbatch,
    one_forward_one_backward,
)
from seq1f1b_jax.schedule.named import Bubble, InFlight, Schedule, Sizes
from seq1f1b_jax.schedule.plan import Plan
from seq1f1b_jax.schedule.simulation.simulate import MACHINES


def seq1f1b(
    *, num_ranks: int, num_microbatches: int, num_chunks: int, extra_warmup: int = 0
) -> Plan:
    """Generate the Seq1F1B plan.

    Rank p holds at most `min(P-p-1+C+extra_warmup, M*C)` units. Where all units cost the same, the
    bubble lasts `(P-1)(F+B)`, with F and B the times of a unit: a C-th of 1F1B's. A rank alone
    holds keys and values of one microbatch.

    Args:
      num_ranks: ranks of the pipeline P, at least 1.
      num_microbatches: sequence batches per step M, at least 1.
      num_chunks: slices of each sequence C, at least 1.
      extra_warmup: forwards added to every rank's warm-up: as many more units in flight, for a
        little less waiting where chunks differ in cost (P=8, M=16, C=4, the last chunk 2.1 times
        the first: time over ideal 1.481, with three more 1.470). Chunks of equal cost do better,
        and so does `seq1f1b-lockstep` (1.148, with 18 units in flight instead of 11). A rank alone
        waits for nobody and has no use for it.

    Returns:
      A valid plan.

    Raises:
      ValueError: a size is below 1, or `extra_warmup` is below 0.
    """
    if extra_warmup < 0:
        raise ValueError(f"extra_warmup={extra_warmup} must be at least 0")
    if num_ranks == 1 and not extra_warmup:
        rank = tuple(microbatch_by_microbatch(0, num_microbatches, num_chunks))
        return Plan("seq1f1b", 1, num_microbatches, num_chunks, (rank,))
    ranks = tuple(
        one_forward_one_backward(
            tuple(forward_order(rank, num_microbatches, num_chunks)),
            tuple(backward_order(rank, num_microbatches, num_chunks)),
            num_warmup=num_ranks - rank - 2 + num_chunks + extra_warmup,
        )
        for rank in range(num_ranks)
    )
    return Plan("seq1f1b", num_ranks, num_microbatches, num_chunks, ranks)


def seq1f1b_lockstep(*, num_ranks: int, num_microbatches: int, num_chunks: int) -> Plan:
    """Generate the lock-step variant: forwards on all ranks in one tick, backwards in the next.

        rank 0  F0.0 F0.1 F1.0 F1.1 .... B0.1----- .... B0.0----- .... B1.1----- B1.0-----
        rank 1  .... F0.0 F0.1 B0.1----- F1.0 B0.0----- F1.1 B1.1----- B1.0----- .... ....

    A message takes a double tick to the next rank, down and up alike, so each rank's warm-up is two
    forwards longer than that of the rank after it: `min(2(P-p-1)+C, M*C)` units in flight. The time
    is that of `seq1f1b` at equal unit costs. Where costs differ the units in flight help.

    Args:
      num_ranks: ranks of the pipeline P, at least 1.
      num_microbatches: sequence batches per step M, at least 1.
      num_chunks: slices of each sequence C, at least 1.

    Returns:
      A valid plan of exchange `lockstep`.

    Raises:
      ValueError: a size is below 1.
    """
    ranks = tuple(
        one_forward_one_backward(
            tuple(forward_order(rank, num_microbatches, num_chunks)),
            tuple(backward_order(rank, num_microbatches, num_chunks)),
            num_warmup=2 * (num_ranks - rank - 1) + num_chunks - 1,
        )
        for rank in range(num_ranks)
    )
    return Plan(
        "seq1f1b-lockstep",
        num_ranks,
        num_microbatches,
        num_chunks,
        ranks,
        exchange=Exchange.LOCKSTEP,
    )


def _in_flight(sizes: Sizes) -> InFlight:
    extra = f"+{sizes.extra_warmup}" if sizes.extra_warmup else ""
    units = [distance + sizes.C + sizes.extra_warmup for distance in sizes.distances]
    return InFlight(units, f"min(P-p-1+C{extra}, M*C)")


def _lockstep_in_flight(sizes: Sizes) -> InFlight:
    units = [2 * distance + sizes.C for distance in sizes.distances]
    return InFlight(units, "min(2(P-p-1)+C, M*C)")


def bubble(sizes: Sizes, F: Any, B: Any) -> Bubble:
    """A unit passes P-1 other ranks on its way down, and its gradient on the way up."""
    return Bubble((sizes.P - 1) * (F + B), "(P-1)(F+B)", MACHINES[:2])


def _lockstep_bubble(sizes: Sizes, F: Any, B: Any) -> Bubble:
    return bubble(sizes, F, B)._replace(machines=MACHINES)


SEQ1F1B = Schedule(seq1f1b, _in_flight, bubble)
SEQ1F1B_LOCKSTEP = Schedule(seq1f1b_lockstep, _lockstep_in_flight, _lockstep_bubble)
