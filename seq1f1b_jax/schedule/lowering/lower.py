"""From a plan to a tick table: when each action runs, and where its values are stored."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.lowering.slots import Slots, sequence, slots_of_ranks
from seq1f1b_jax.schedule.lowering.table import (
    NO_STAGE,
    OP_CODES,
    ActionColumns,
    TickTable,
    WeightColumns,
)
from seq1f1b_jax.schedule.lowering.ticks import assign_ticks, num_ticks
from seq1f1b_jax.schedule.partition import explicit_lengths
from seq1f1b_jax.schedule.plan import Plan, peak_units
from seq1f1b_jax.schedule.validate import validate


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
    ticks = assign_ticks(plan)
    ranks = slots_of_ranks(plan, ticks, lengths)
    last_rank = ranks[plan.rank(plan.num_stages - 1)]
    actions, weights, arrival_slot = _columns(plan, ticks, ranks)
    return TickTable(
        actions=actions,
        weights=weights,
        arrival_slot=arrival_slot,
        exchange=plan.exchange,
        stages_per_rank=plan.stages_per_rank,
        chunk_lengths=lengths,
        num_microbatches=plan.num_microbatches,
        peak_units=peak_units(plan),
        cache_tokens_per_rank=tuple(slots.room.cache for slots in ranks),
        cache_bound_per_rank=tuple(slots.cache_bound for slots in ranks),
        prefix_slots_per_rank=tuple(slots.num_prefix_slots for slots in ranks),
        arena_tokens_per_rank=tuple(slots.room.arena for slots in ranks),
        arena_bound_per_rank=tuple(slots.arena_bound for slots in ranks),
        deferred_tokens_per_rank=tuple(slots.room.deferred for slots in ranks),
        inbox_slots_per_rank=tuple(slots.num_inbox_slots for slots in ranks),
        loss_tokens=last_rank.loss_tokens,
    )


def _columns(
    plan: Plan, ticks: Mapping[Action, int], ranks: Sequence[Slots]
) -> tuple[ActionColumns, WeightColumns, NDArray[np.int32]]:
    shape = (num_ticks(ticks), plan.num_ranks)
    actions = ActionColumns(*(np.zeros(shape, np.int32) for _ in ActionColumns._fields))
    pages = np.zeros((*shape, plan.num_chunks), np.int32)
    actions = actions._replace(cache_pages=pages)
    weights = WeightColumns(*(np.zeros(shape, np.int32) for _ in WeightColumns._fields))
    weights.stage[:] = NO_STAGE
    arrival_slot = np.array([slots.arrival_slots() for slots in ranks], np.int32).T.copy()
    for action, tick in ticks.items():
        rank = plan.rank(action.stage)
        columns, cell = (
            (weights, _weight_cell(action, ranks[rank]))
            if action.op is Op.W
            else (actions, _action_cell(action, ranks[rank]))
        )
        for column, value in zip(columns, cell, strict=True):
            column[tick, rank] = value
    for array in (*actions, *weights, arrival_slot):
        array.setflags(write=False)
    return actions, weights, arrival_slot


def _action_cell(action: Action, slots: Slots) -> ActionColumns:
    """One cell of every column; 0 for a value that the action does not have."""
    forward = replace(action, op=Op.F)
    return ActionColumns(
        op=OP_CODES[action.op],
        stage=action.stage,
        microbatch=action.microbatch,
        chunk=action.chunk,
        cache_pages=slots.pages[sequence(action)],
        prefix_slot=slots.prefix.get(sequence(action), 0),
        arena_offset=slots.arena.get(forward, 0),
        loss_offset=slots.loss.get(forward, 0),
        deferred_offset=slots.deferred.get(forward, 0),
        inbox_slot=slots.inbox.get(action, 0),
    )


def _weight_cell(action: Action, slots: Slots) -> WeightColumns:
    forward = replace(action, op=Op.F)
    return WeightColumns(
        stage=action.stage,
        microbatch=action.microbatch,
        chunk=action.chunk,
        arena_offset=slots.arena[forward],
        deferred_offset=slots.deferred[forward],
    )
