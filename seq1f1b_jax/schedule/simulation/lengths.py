"""Chunk lengths that weigh the time of a step against its memory.

Chunks of equal cost make the fastest steps. They are unequal in length, the first the longest, and
take more memory than even ones: the tokens in flight at the fullest moment belong to longer chunks,
and the scratch of a layer is that of the longest. Cuts in between cost some time and save some of
that memory. On one rank nobody waits for a costly chunk, so there the even cut is best.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from seq1f1b_jax.schedule.actions import Op
from seq1f1b_jax.schedule.plan import Plan
from seq1f1b_jax.schedule.simulation.flops import StageCost
from seq1f1b_jax.schedule.simulation.measured import MeasuredCosts
from seq1f1b_jax.schedule.simulation.simulate import simulate

NUM_WEIGHTS = 9
"""Cuts that are compared, from the balanced one to the even one."""

SCRATCH_LAYERS = 3
"""Scratch of a layer's backward over what a layer keeps of the same tokens: 2 to 4, see
docs/design/memory.md."""

Cut = Callable[[Callable[[int, int], float]], tuple[int, ...]]
"""Chunk lengths for a cost of chunks."""


@dataclass(frozen=True)
class Candidate:
    """A cut between the balanced one and the even one.

    Attributes:
      weight: 0 for cost alone, 1 for length alone.
      lengths: tokens of each chunk.
      time: of a step, in FLOPs or in seconds measured, on the executor's machine.
      tokens: in flight on the fullest rank at its fullest moment.
      memory: of these tokens and of the scratch, in tokens of a layer.
    """

    weight: float
    lengths: tuple[int, ...]
    time: Any
    tokens: int
    memory: int


def candidates(
    plan: Plan, cost: StageCost | MeasuredCosts, cut: Cut, *, seq_len: int
) -> tuple[Candidate, ...]:
    """Cuts from the balanced to the even one, with the time and the memory of a step.

    Args:
      plan: the schedule.
      cost: of a chunk.
      cut: the lengths for a cost, such as `balanced_lengths` with its other arguments.
      seq_len: tokens of a sequence.
    """
    whole, num_layers = cost(0, seq_len), max(cost.layers_per_stage)
    found = {}
    for index in range(NUM_WEIGHTS):
        weight = index / (NUM_WEIGHTS - 1)

        def mixed(start: int, length: int, weight=weight) -> float:
            return (1 - weight) * cost(start, length) / whole + weight * length / seq_len

        lengths = cut(mixed)
        if lengths not in found:
            tokens = peak_tokens(plan, lengths)
            time = simulate(plan, cost.costs(lengths), machine="executor").makespan
            memory = num_layers * tokens + SCRATCH_LAYERS * max(lengths)
            found[lengths] = Candidate(weight, lengths, time, tokens, memory)
    return tuple(found.values())


def frugal_lengths(
    plan: Plan, cost: StageCost | MeasuredCosts, cut: Cut, *, seq_len: int, max_slowdown: float
) -> tuple[int, ...]:
    """Of the cuts between balanced and even, the one of least memory that is fast enough.

    Without a slowdown that is the balanced one, and on one rank the even one.

    Args:
      plan: the schedule.
      cost: of a chunk.
      cut: see `candidates`.
      seq_len: tokens of a sequence.
      max_slowdown: by how much a step may take longer than with the fastest of them: 0.01 is 1 %.

    Returns:
      Tokens of each chunk.

    Example:
      >>> from functools import partial
      >>> from seq1f1b_jax.schedule import StageCost, balanced_lengths, make_plan
      >>> cost = StageCost(model_dim=1024, num_heads=8, num_kv_heads=8, head_dim=128, mlp_dim=4096,
      ...                  gated=False, vocab_size=50304, layers_per_stage=(6, 6, 6, 6))
      >>> plan = make_plan("seq1f1b", num_ranks=4, num_microbatches=8, num_chunks=4)
      >>> cut = partial(balanced_lengths, 65536, 4, block=128)
      >>> frugal_lengths(plan, cost, cut, seq_len=65536, max_slowdown=0.0)
      (29056, 14976, 11648, 9856)
      >>> frugal_lengths(plan, cost, cut, seq_len=65536, max_slowdown=0.02)
      (27392, 15616, 12160, 10368)
    """
    if plan.num_ranks == 1:
        return cut(lambda start, length: length)
    if not max_slowdown:
        return cut(cost)
    found = candidates(plan, cost, cut, seq_len=seq_len)
    limit = (1 + max_slowdown) * min(candidate.time for candidate in found)
    fast = [candidate for candidate in found if candidate.time <= limit]
    return min(fast, key=lambda candidate: (candidate.memory, candidate.time)).lengths


def peak_tokens(
    plan: Plan, lengths: Sequence[int], *, until: tuple[Op, ...] = (Op.B, Op.W)
) -> int:
    """Tokens that the fullest rank holds at its fullest moment.

    Args:
      plan: the schedule.
      lengths: tokens of each chunk.
      until: what ends the wait: of residuals `B` or `W`, of keys and values `B` or `I`.

    Example:
      >>> from seq1f1b_jax.schedule import make_plan
      >>> plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=2, num_chunks=2)
      >>> peak_tokens(plan, (6, 2))
      14
    """
    change = {Op.F: 1, **dict.fromkeys(until, -1)}
    peak = 0
    for row in plan.ranks:
        live = 0
        for action in row:
            live += change.get(action.op, 0) * lengths[action.chunk]
            peak = max(peak, live)
    return peak
