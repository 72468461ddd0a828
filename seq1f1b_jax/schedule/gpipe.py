"""GPipe: all forwards, then all backwards.

    rank 0  F0.0 F0.1 F1.0 F1.1 .... .... .... B0.1----- B0.0----- B1.1----- B1.0-----
    rank 1  .... F0.0 F0.1 F1.0 F1.1 B0.1----- B0.0----- B1.1----- B1.0----- .... ....

Every rank holds all `M*C` units at once; the bubble is that of Seq1F1B.
Source: GPipe (arXiv 1811.06965), section 2.2, with chunks of a sequence as its micro-batches.
"""

from seq1f1b_jax.schedule.plan import Plan
from seq1f1b_jax.schedule.seq1f1b import backward_order, forward_order


def gpipe(
    *, num_stages: int, num_microbatches: int, num_chunks: int, extra_warmup: int = 0
) -> Plan:
    """Generate the GPipe plan.

    Args:
      num_stages: ranks of the pipeline, at least 1.
      num_microbatches: sequence batches per step, at least 1.
      num_chunks: slices of each sequence, at least 1.
      extra_warmup: must be 0; the warm-up is the whole step already.

    Returns:
      A valid plan named `gpipe`.

    Raises:
      ValueError: a size is below 1, or `extra_warmup` is not 0.
    """
    if extra_warmup != 0:
        raise ValueError(
            f"extra_warmup={extra_warmup} has no effect on gpipe, which runs every forward before"
            " its first backward; use 0, or the schedule seq1f1b"
        )
    ranks = tuple(
        (
            *forward_order(stage, num_microbatches, num_chunks),  # F F F ...
            *backward_order(stage, num_microbatches, num_chunks),  # B B B ...
        )
        for stage in range(num_stages)
    )
    return Plan("gpipe", num_stages, num_microbatches, num_chunks, ranks)
