"""Seq1F1B: one forward, one backward, by chunks of a sequence. With one chunk it is 1F1B.

    rank 0  F0.0 F0.1 F1.0 .... .... B0.1----- F1.1 B0.0----- .... B1.1----- B1.0-----
    rank 1  .... F0.0 F0.1 B0.1----- F1.0 B0.0----- F1.1 B1.1----- B1.0----- .... ....

Forwards go microbatch by microbatch with chunks ascending (a chunk attends to the ones before it),
backwards with chunks descending (keys and values of a chunk collect gradients from the ones after).
With `w` warm-up forwards the first backward on the last rank is that of its unit `C-1`, so
`w = C-1` there, and each rank before it needs one more, the time of a message down and one back up.
Source: Seq1F1B (arXiv 2406.03488), section 3.2.
"""

from collections.abc import Iterator
from dataclasses import replace

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.plan import Plan


def seq1f1b(
    *, num_stages: int, num_microbatches: int, num_chunks: int, extra_warmup: int = 0
) -> Plan:
    """Generate the Seq1F1B plan.

    For equal unit costs rank p holds at most `min(P-p-1+C+extra_warmup, M*C)` units, and the bubble
    lasts `(P-1)(f+b)/C`, with f and b the cost of a whole microbatch on one stage.

    Args:
      num_stages: ranks of the pipeline P, at least 1.
      num_microbatches: sequence batches per step M, at least 1.
      num_chunks: slices of each sequence C, at least 1.
      extra_warmup: forwards added to every rank's warm-up: as many more units in flight, for less
        waiting where chunks differ in cost. The same on every rank, so that a gradient still meets
        its reader in the tick after; it buys little (P=8, M=16, C=4, the last chunk 2.1 times the
        first: time over ideal 1.481, with three more 1.470). Chunks of equal cost do better.

    Returns:
      A valid plan named `seq1f1b`.

    Raises:
      ValueError: a size is below 1, or `extra_warmup` is below 0.
    """
    if extra_warmup < 0:
        raise ValueError(f"extra_warmup={extra_warmup} must be at least 0")
    num_units = num_microbatches * num_chunks
    ranks = tuple(
        _interleave(
            tuple(forward_order(stage, num_microbatches, num_chunks)),
            tuple(backward_order(stage, num_microbatches, num_chunks)),
            # P=2, C=2: 2 on rank 0, 1 on rank 1.
            num_warmup=min(num_stages - stage - 2 + num_chunks + extra_warmup, num_units),
        )
        for stage in range(num_stages)
    )
    return Plan("seq1f1b", num_stages, num_microbatches, num_chunks, ranks)


def one_forward_one_backward(
    *, num_stages: int, num_microbatches: int, num_chunks: int = 1, extra_warmup: int = 0
) -> Plan:
    """Generate the 1F1B plan: Seq1F1B with whole sequences as its units.

    Args:
      num_stages: ranks of the pipeline, at least 1.
      num_microbatches: sequence batches per step, at least 1.
      num_chunks: must be 1.
      extra_warmup: forwards added to every rank's warm-up.

    Returns:
      A valid plan named `1f1b`.

    Raises:
      ValueError: `num_chunks` is not 1, a size is below 1, or `extra_warmup` is below 0.
    """
    if num_chunks != 1:
        raise ValueError(
            f"num_chunks={num_chunks} does not fit 1f1b, which runs whole sequences;"
            " use 1, or the schedule seq1f1b"
        )
    plan = seq1f1b(
        num_stages=num_stages,
        num_microbatches=num_microbatches,
        num_chunks=1,
        extra_warmup=extra_warmup,
    )
    return replace(plan, name="1f1b")


def _interleave(
    forwards: tuple[Action, ...], backwards: tuple[Action, ...], *, num_warmup: int
) -> tuple[Action, ...]:
    num_steady = len(forwards) - num_warmup
    # warm-up: F F F
    warmup = forwards[:num_warmup]
    # steady: (F B)*
    steady = zip(forwards[num_warmup:], backwards[:num_steady], strict=True)
    # drain: B B B
    drain = backwards[num_steady:]
    return (*warmup, *(action for pair in steady for action in pair), *drain)


def forward_order(stage: int, num_microbatches: int, num_chunks: int) -> Iterator[Action]:
    """Yield every forward of a stage: microbatch by microbatch, chunks ascending."""
    for microbatch in range(num_microbatches):
        for chunk in range(num_chunks):
            yield Action(Op.F, stage, microbatch, chunk)


def backward_order(stage: int, num_microbatches: int, num_chunks: int) -> Iterator[Action]:
    """Yield every backward of a stage: microbatch by microbatch, chunks descending."""
    for microbatch in range(num_microbatches):
        for chunk in reversed(range(num_chunks)):
            yield Action(Op.B, stage, microbatch, chunk)
