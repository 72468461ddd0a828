"""ZB-H1 by chunks: the backward in two halves, the second of which fills the bubble.

Two ranks, three microbatches, one chunk, F, I and W of equal cost:

    rank 0  F0.0 F1.0 .... I0.0 W0.0 F2.0 I1.0 W1.0 I2.0 W2.0
    rank 1  .... F0.0 I0.0 F1.0 W0.0 I1.0 F2.0 I2.0 W1.0 W2.0

`I` gives the gradient that the previous rank waits for; nothing waits for a `W`. So every rank runs
1F1B with `I` for `B` and delays its `W`s until its memory is full: a unit's memory is free after
its `W`, and the rank with the fewest forwards ahead has the most room for `W`s behind. All ranks
then hold `P-1+C` units, what the first rank of Seq1F1B holds, and the bubble shrinks from
`(P-1)(F+B)` to `(P-1)(F+B-2W)`.

The position of a `W` within the steady phase is free in theory, but not in the executor, where
neighbours wait for each other in every tick. The published picture, a `W` after each `I`, takes
another `P-1` times W there. Running it when a forward has filled the memory (on rank 0, where the
`I` comes later, when the `I` is done), so between `F` and `I`, takes nothing: then the executor has
the asynchronous time, exactly.

Source: Zero Bubble Pipeline Parallelism (arXiv 2401.10241), section 3 (ZB-H1).
"""

from collections.abc import Iterator
from typing import Any

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.generators.orders import (
    backward_order,
    forward_order,
    one_forward_one_backward,
)
from seq1f1b_jax.schedule.named import Bubble, InFlight, Schedule, Sizes
from seq1f1b_jax.schedule.plan import Plan
from seq1f1b_jax.schedule.simulation.simulate import MACHINES


def zero_bubble_h1(*, num_ranks: int, num_microbatches: int, num_chunks: int) -> Plan:
    """Generate the ZB-H1 plan over chunks.

    Every rank holds at most `min(P-1+C, M*C)` units from their F to their W. Where all units cost
    the same, `W <= min(F, I)` and `(M-1)C >= P-1`, the bubble lasts `(P-1)(F+I-W)`; `_bubble` has
    it for any times and sizes.

    Args:
      num_ranks: ranks of the pipeline P, at least 1.
      num_microbatches: sequence batches per step M, at least 1.
      num_chunks: slices of each sequence C, at least 1.

    Returns:
      A valid plan with split backwards.

    Raises:
      ValueError: a size is below 1.
    """
    capacity = num_ranks - 1 + num_chunks

    def row(rank: int) -> tuple[Action, ...]:
        main = one_forward_one_backward(
            tuple(forward_order(rank, num_microbatches, num_chunks)),
            tuple(backward_order(rank, num_microbatches, num_chunks, Op.I)),
            num_warmup=num_ranks - rank - 2 + num_chunks,
        )
        weights = tuple(backward_order(rank, num_microbatches, num_chunks, Op.W))
        return tuple(_with_weights(main, weights, capacity=capacity))

    ranks = tuple(row(rank) for rank in range(num_ranks))
    return Plan("seq-zb-h1", num_ranks, num_microbatches, num_chunks, ranks)


def _with_weights(
    main: tuple[Action, ...], weights: tuple[Action, ...], *, capacity: int
) -> Iterator[Action]:
    """Insert the `W`s: when the memory is full, and after each `I` once all forwards are done."""
    num_forwards = num_inputs = num_weights = 0
    for action in main:
        yield action
        num_forwards += action.op is Op.F
        num_inputs += action.op is Op.I
        if num_forwards < len(weights):  # warm-up: F F F, steady: (F W I)* or (F I W)* on rank 0
            due = num_forwards - num_weights == capacity
        else:  # drain: (I W)*
            due = action.op is Op.I
        if due and num_weights < num_inputs:
            yield weights[num_weights]
            num_weights += 1
    # what is left: W W W
    yield from weights[num_weights:]


def _in_flight(sizes: Sizes) -> InFlight:
    return InFlight([sizes.P - 1 + sizes.C] * sizes.P, "min(P-1+C, M*C)")


def _bubble(sizes: Sizes, F: Any, I: Any, W: Any) -> Bubble:  # noqa: E741
    """A `W` fills a gap of each unit that came before the memory was full."""
    machines = MACHINES[:2] if W <= max(F, I) else MACHINES[:1]
    num_filled = min((sizes.M - 1) * sizes.C, sizes.P - 1)
    time = max((sizes.P - 1) * F, (sizes.P - 1) * (F + I) - num_filled * min(F, W))
    if num_filled == sizes.P - 1 and W <= min(F, I):
        return Bubble(time, "(P-1)(F+I-W)", machines)
    return Bubble(time, "max((P-1)F, (P-1)(F+I)-min((M-1)C, P-1)min(F, W))", machines)


ZERO_BUBBLE_H1 = Schedule(zero_bubble_h1, _in_flight, _bubble)
