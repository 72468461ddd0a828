"""TeraPipe: all forwards, then all backwards, chunk by chunk. With one chunk it is GPipe.

    rank 0  F0.0 F0.1 F1.0 F1.1 .... .... .... B0.1----- B0.0----- B1.1----- B1.0-----
    rank 1  .... F0.0 F0.1 F1.0 F1.1 B0.1----- B0.0----- B1.1----- B1.0----- .... ....

Every rank holds all `M*C` units at once; the bubble is that of Seq1F1B.
Source: GPipe (arXiv 1811.06965), section 2.2; TeraPipe (arXiv 2102.07988), section 3.2, for chunks
of a sequence as the unit of work.
"""

from seq1f1b_jax.schedule.generators.orders import backward_order, forward_order
from seq1f1b_jax.schedule.generators.seq1f1b import bubble
from seq1f1b_jax.schedule.named import InFlight, Schedule, Sizes
from seq1f1b_jax.schedule.plan import Plan


def terapipe(*, num_ranks: int, num_microbatches: int, num_chunks: int) -> Plan:
    """Generate the TeraPipe plan.

    Args:
      num_ranks: ranks of the pipeline, at least 1.
      num_microbatches: sequence batches per step, at least 1.
      num_chunks: slices of each sequence, at least 1.

    Returns:
      A valid plan.

    Raises:
      ValueError: a size is below 1.
    """
    ranks = tuple(
        (
            *forward_order(stage, num_microbatches, num_chunks),  # F F F ...
            *backward_order(stage, num_microbatches, num_chunks),  # B B B ...
        )
        for stage in range(num_ranks)
    )
    return Plan("terapipe", num_ranks, num_microbatches, num_chunks, ranks)


def _in_flight(sizes: Sizes) -> InFlight:
    return InFlight([sizes.U] * sizes.P, "M*C")


TERAPIPE = Schedule(terapipe, _in_flight, bubble)
