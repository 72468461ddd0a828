"""From a plan to a tick table: when each action runs, and where its values live.

Rank p runs forwards in ticks `h = p (mod 2)` and backwards in the others, each action as early as
the order of the rank, the dependencies and the parity allow. So when rank a may send down, rank a+1
may send up: one exchange between the two carries both messages, and no other rank is part of it.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.arena import Interval, allocate
from seq1f1b_jax.schedule.dependencies import execution_order, message_source
from seq1f1b_jax.schedule.partition import explicit_lengths
from seq1f1b_jax.schedule.plan import Plan, peak_units
from seq1f1b_jax.schedule.table import OP_CODES, TickTable
from seq1f1b_jax.schedule.validate import plan_error, validate


def lower(plan: Plan, chunk_lengths: Sequence[int]) -> TickTable:
    """Lower a plan to the table that the executor scans over.

    For `seq1f1b` (and for `gpipe` with a warm-up of everything) the ticks have a closed form: the
    forward of unit u on rank p is at `2u+p`, the i-th backward at `2(i+C-1+extra_warmup)+2P-1-p`.

    Args:
      plan: of any origin; it is validated here.
      chunk_lengths: tokens of each chunk, one entry per chunk.

    Returns:
      The table, with an even number of ticks.

    Raises:
      PlanError: the plan is not valid; a message would have to wait for its reader; or a rank would
        hold the prefix gradients of two microbatches at once. The executor has a place for neither.
      ValueError: the lengths are not one positive number per chunk.

    Example:
      >>> table = lower(make_plan("1f1b", num_stages=2, num_microbatches=2, num_chunks=1), [8])
      >>> print(draw_table(table))
      rank 0  F0.0 .... F1.0 B0.0 .... B1.0
      rank 1  .... F0.0 B0.0 F1.0 B1.0 ....
    """
    validate(plan)
    if len(chunk_lengths) != plan.num_chunks:
        raise ValueError(
            f"{len(chunk_lengths)} chunk lengths were given for num_chunks={plan.num_chunks};"
            " give one length per chunk"
        )
    lengths = explicit_lengths(sum(chunk_lengths), chunk_lengths)
    ticks = place(plan)
    _check_messages(plan, ticks)
    _check_prefix_gradients(plan, ticks)
    arenas = [_allocate_arena(plan, rank, ticks, lengths) for rank in range(plan.num_stages)]
    caches = [_allocate_cache(plan, rank, ticks) for rank in range(plan.num_stages)]
    return TickTable(
        **_arrays(plan, ticks, [slots for slots, _ in caches], [offsets for offsets, _ in arenas]),
        chunk_lengths=lengths,
        num_microbatches=plan.num_microbatches,
        peak_units=peak_units(plan),
        cache_slots_per_rank=tuple(total for _, total in caches),
        arena_tokens_per_rank=tuple(total for _, total in arenas),
    )


def place(plan: Plan) -> dict[Action, int]:
    """Give each action of a valid plan its tick: the earliest of its parity.

    Returns:
      The tick of every action.
    """
    ticks: dict[Action, int] = {}
    free = [0] * plan.num_stages  # first tick after each rank's latest action
    for action in execution_order(plan):
        rank = action.stage
        source = message_source(action, num_stages=plan.num_stages)
        tick = max(free[rank], 0 if source is None else ticks[source] + 1)
        parity = (rank + (action.op is Op.B)) % 2
        tick += (tick - parity) % 2
        ticks[action] = tick
        free[rank] = tick + 1
    return ticks


def _check_messages(plan: Plan, ticks: Mapping[Action, int]) -> None:
    for rank, row in enumerate(plan.ranks):
        for index, action in enumerate(row):
            source = message_source(action, num_stages=plan.num_stages)
            if source is not None and ticks[action] != ticks[source] + 1:
                reason = (
                    f"{action.text(rank)} runs in tick {ticks[action]} but its message was sent in"
                    f" tick {ticks[source]}; the executor consumes a message in the next tick and"
                    " keeps none, so order the actions as make_plan does"
                )
                raise plan_error(plan, reason, rank=rank, index=index)


def _check_prefix_gradients(plan: Plan, ticks: Mapping[Action, int]) -> None:
    if plan.forward_only or plan.num_chunks == 1:
        return
    for rank, row in enumerate(plan.ranks):
        backwards = [(index, a) for index, a in enumerate(row) if a.op is Op.B]
        for (_, before), (index, action) in pairwise(backwards):
            if before.chunk > 0 and action.microbatch != before.microbatch:
                reason = (
                    f"{action.text(rank)} starts before the backwards of microbatch"
                    f" {before.microbatch} are over; a rank holds the prefix gradients of one"
                    " microbatch at a time, so finish one before the next"
                )
                raise plan_error(plan, reason, rank=rank, index=index)


def _allocate_arena(
    plan: Plan, rank: int, ticks: Mapping[Action, int], lengths: Sequence[int]
) -> tuple[dict[tuple[int, int], int], int]:
    """Offsets by unit, and tokens in all: residuals live from forward to backward."""
    units = [action.unit for action in plan.ranks[rank] if action.op is Op.F]
    if plan.forward_only:
        return dict.fromkeys(units, 0), 0
    offsets, total = allocate(
        [
            Interval(ticks[Action(Op.F, rank, m, c)], ticks[Action(Op.B, rank, m, c)], lengths[c])
            for m, c in units
        ]
    )
    return dict(zip(units, offsets, strict=True)), total


def _allocate_cache(
    plan: Plan, rank: int, ticks: Mapping[Action, int]
) -> tuple[tuple[int, ...], int]:
    """Slots by microbatch, and slots in all: keys and values live to their last reader."""
    last = (Op.F, plan.num_chunks - 1) if plan.forward_only else (Op.B, 0)
    return allocate(
        [
            Interval(
                ticks[Action(Op.F, rank, microbatch, 0)],
                ticks[Action(last[0], rank, microbatch, last[1])],
                size=1,
            )
            for microbatch in range(plan.num_microbatches)
        ]
    )


def _arrays(
    plan: Plan,
    ticks: Mapping[Action, int],
    slots: Sequence[Sequence[int]],
    offsets: Sequence[Mapping[tuple[int, int], int]],
) -> dict[str, np.ndarray]:
    num_ticks = max(ticks.values()) + 1
    shape = (num_ticks + num_ticks % 2, plan.num_stages)
    names = ("op", "microbatch", "chunk", "cache_slot", "arena_offset")
    arrays = {name: np.zeros(shape, np.int32) for name in names}
    for action, tick in ticks.items():
        rank = action.stage
        arrays["op"][tick, rank] = OP_CODES[action.op]
        arrays["microbatch"][tick, rank] = action.microbatch
        arrays["chunk"][tick, rank] = action.chunk
        arrays["cache_slot"][tick, rank] = slots[rank][action.microbatch]
        arrays["arena_offset"][tick, rank] = offsets[rank][action.unit]
    for array in arrays.values():
        array.setflags(write=False)
    return arrays
