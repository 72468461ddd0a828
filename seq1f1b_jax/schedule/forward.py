"""Forward only: what evaluation runs.

Two stages, two microbatches, two chunks:

    rank 0  F0.0 F0.1 F1.0 F1.1 ....
    rank 1  .... F0.0 F0.1 F1.0 F1.1
"""

from seq1f1b_jax.schedule.plan import Plan
from seq1f1b_jax.schedule.seq1f1b import forward_order


def forward_plan(*, num_stages: int, num_microbatches: int, num_chunks: int) -> Plan:
    """Generate the plan without backwards.

    Args:
      num_stages: ranks of the pipeline, at least 1.
      num_microbatches: sequence batches per step, at least 1.
      num_chunks: slices of each sequence, at least 1.

    Returns:
      A valid plan named `forward`; nothing is kept for a backward.
    """
    ranks = tuple(
        tuple(forward_order(stage, num_microbatches, num_chunks)) for stage in range(num_stages)
    )
    return Plan("forward", num_stages, num_microbatches, num_chunks, ranks)
