"""Forward only: what evaluation runs.

Two stages, two microbatches, two chunks:

    rank 0  F0.0 F0.1 F1.0 F1.1 ....
    rank 1  .... F0.0 F0.1 F1.0 F1.1
"""

from seq1f1b_jax.schedule.exchange import Exchange
from seq1f1b_jax.schedule.generators.interleaved import interleaved_forwards
from seq1f1b_jax.schedule.plan import Plan


def forward_plan(
    *, num_ranks: int, num_microbatches: int, num_chunks: int, stages_per_rank: int = 1
) -> Plan:
    """Generate the plan without backwards.

    Args:
      num_ranks: ranks of the pipeline, at least 1.
      num_microbatches: sequence batches per step, at least 1.
      num_chunks: slices of each sequence, at least 1.
      stages_per_rank: stages per rank, at least 1.

    Returns:
      A valid plan named `forward`; nothing is kept for a backward.
    """
    ranks = tuple(
        tuple(
            interleaved_forwards(
                rank,
                num_ranks=num_ranks,
                num_microbatches=num_microbatches,
                num_chunks=num_chunks,
                stages_per_rank=stages_per_rank,
            )
        )
        for rank in range(num_ranks)
    )
    return Plan(
        "forward",
        num_ranks,
        num_microbatches,
        num_chunks,
        ranks,
        stages_per_rank=stages_per_rank,
        exchange=Exchange.PARITY if stages_per_rank == 1 else Exchange.LOCKSTEP,
    )
