"""From a plan to a tick table: when each action runs, and where its values live."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.lowering.slots import Places, sequence
from seq1f1b_jax.schedule.lowering.table import NO_STAGE, OP_CODES, TickTable
from seq1f1b_jax.schedule.lowering.ticks import num_ticks, place
from seq1f1b_jax.schedule.partition import explicit_lengths
from seq1f1b_jax.schedule.plan import Plan, peak_units
from seq1f1b_jax.schedule.validate import validate

_ACTION_FIELDS = (
    *("op", "stage", "microbatch", "chunk", "cache_slot", "prefix_slot", "arena_offset"),
    *("loss_offset", "deferred_offset", "inbox_slot"),
)
_WEIGHT_FIELDS = (
    *("weight_stage", "weight_microbatch", "weight_chunk"),
    *("weight_arena_offset", "weight_deferred_offset"),
)
_FIELDS = (*_ACTION_FIELDS, *_WEIGHT_FIELDS, "arrival_slot")


def lower(plan: Plan, chunk_lengths: Sequence[int]) -> TickTable:
    """Lower a plan to the table that the executor scans over.

    Args:
      plan: of any origin; it is validated here.
      chunk_lengths: tokens of each chunk, one entry per chunk.

    Returns:
      The table, with an even number of ticks.

    Raises:
      PlanError: the plan is not valid.
      ValueError: the lengths are not one positive number per chunk, or the exchange does not fit.

    Example:
      >>> from seq1f1b_jax.schedule import draw_table, lower, make_plan
      >>> table = lower(make_plan("1f1b", num_ranks=2, num_microbatches=2, num_chunks=1), [8])
      >>> print(draw_table(table))
      rank 0  F0.0 .... F1.0 B0.0 .... B1.0
      rank 1  .... F0.0 B0.0 F1.0 B1.0 ....
    """
    validate(plan)
    plan.exchange.pairs(0, num_ranks=plan.num_ranks, ring=plan.stages_per_rank > 1)  # has a pattern
    if len(chunk_lengths) != plan.num_chunks:
        raise ValueError(
            f"{len(chunk_lengths)} chunk lengths were given for num_chunks={plan.num_chunks};"
            " give one length per chunk"
        )
    lengths = explicit_lengths(sum(chunk_lengths), chunk_lengths)
    ticks = place(plan)
    ranks = [Places(plan, rank, ticks, lengths) for rank in range(plan.num_ranks)]
    last_rank = ranks[plan.rank(plan.num_stages - 1)]
    return TickTable(
        **_arrays(plan, ticks, ranks),
        exchange=plan.exchange,
        stages_per_rank=plan.stages_per_rank,
        chunk_lengths=lengths,
        num_microbatches=plan.num_microbatches,
        peak_units=peak_units(plan),
        cache_slots_per_rank=tuple(places.num_cache_slots for places in ranks),
        prefix_slots_per_rank=tuple(places.num_prefix_slots for places in ranks),
        arena_tokens_per_rank=tuple(places.arena_tokens for places in ranks),
        deferred_tokens_per_rank=tuple(places.deferred_tokens for places in ranks),
        inbox_slots_per_rank=tuple(places.num_inbox_slots for places in ranks),
        loss_tokens=last_rank.loss_tokens,
    )


def _arrays(
    plan: Plan, ticks: Mapping[Action, int], ranks: Sequence[Places]
) -> dict[str, NDArray[np.int32]]:
    shape = (num_ticks(ticks), plan.num_ranks)
    arrays = {name: np.zeros(shape, np.int32) for name in _FIELDS}
    arrays["weight_stage"][:] = NO_STAGE
    for rank, places in enumerate(ranks):
        arrays["arrival_slot"][:, rank] = places.arrival_slots()
    for action, tick in ticks.items():
        rank = plan.rank(action.stage)
        for name, value in _cell(action, ranks[rank]).items():
            arrays[name][tick, rank] = value
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def _cell(action: Action, places: Places) -> dict[str, int]:
    """The columns of one action; 0 stands for a place that it does not have."""
    forward = replace(action, op=Op.F)
    if action.op is Op.W:
        values = (
            action.stage,
            action.microbatch,
            action.chunk,
            places.arena[forward],
            places.deferred[forward],
        )
        return dict(zip(_WEIGHT_FIELDS, values, strict=True))
    values = (
        OP_CODES[action.op],
        action.stage,
        action.microbatch,
        action.chunk,
        places.cache[sequence(action)],
        places.prefix.get(sequence(action), 0),
        places.arena.get(forward, 0),
        places.loss.get(forward, 0),
        places.deferred.get(forward, 0),
        places.inbox.get(action, 0),
    )
    return dict(zip(_ACTION_FIELDS, values, strict=True))
