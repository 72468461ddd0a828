"""The orders of work that schedules are put together from."""

from collections.abc import Iterator, Sequence

from seq1f1b_jax.schedule.actions import Action, Op


def forward_order(stage: int, num_microbatches: int, num_chunks: int) -> Iterator[Action]:
    """Yield every forward of a stage: microbatch by microbatch, chunks ascending.

    A chunk attends to the ones before it.
    """
    for microbatch in range(num_microbatches):
        for chunk in range(num_chunks):
            yield Action(Op.F, stage, microbatch, chunk)


def backward_order(
    stage: int, num_microbatches: int, num_chunks: int, op: Op = Op.B
) -> Iterator[Action]:
    """Yield every backward of a stage: microbatch by microbatch, chunks descending.

    Keys and values of a chunk collect gradients from the ones after it.
    """
    for microbatch in range(num_microbatches):
        for chunk in reversed(range(num_chunks)):
            yield Action(op, stage, microbatch, chunk)


def microbatch_by_microbatch(
    stage: int, num_microbatches: int, num_chunks: int
) -> Iterator[Action]:
    """Yield all forwards of a microbatch, then all of its backwards, then those of the next.

    No unit of a second microbatch is in flight, so a stage holds the keys and values of one.
    """
    for microbatch in range(num_microbatches):
        # F F F
        yield from (Action(Op.F, stage, microbatch, chunk) for chunk in range(num_chunks))
        # B B B
        yield from (Action(Op.B, stage, microbatch, chunk) for chunk in reversed(range(num_chunks)))


def one_forward_one_backward(
    forwards: Sequence[Action], backwards: Sequence[Action], *, num_warmup: int
) -> tuple[Action, ...]:
    """Interleave one forward, one backward after a warm-up of forwards.

    Args:
      forwards: of one rank, in order.
      backwards: of the same units, in order.
      num_warmup: forwards before the pairs; more than there are means all of them.
    """
    num_warmup = min(num_warmup, len(forwards))
    num_steady = len(forwards) - num_warmup
    # warm-up: F F F
    warmup = forwards[:num_warmup]
    # steady: (F B)*
    steady = zip(forwards[num_warmup:], backwards[:num_steady], strict=True)
    # drain: B B B
    drain = backwards[num_steady:]
    return (*warmup, *(action for pair in steady for action in pair), *drain)
