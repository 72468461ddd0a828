"""The tick table: when actions run, where their values live, how much the buffers hold."""

from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest

from seq1f1b_jax.schedule import (
    NO_STAGE,
    Exchange,
    Op,
    PlanError,
    assign_ticks,
    forward_plan,
    lower,
    make_plan,
    parse_grid,
    replay,
)
from seq1f1b_jax.schedule.generators.interleaved import group_sizes
from seq1f1b_jax.schedule.lowering.table import FORWARD, NO_ACTION
from tests.schedule.cases import cases_of


@pytest.mark.parametrize("name", ["gpipe", "terapipe", "1f1b", "seq1f1b"])
def test_ticks_of_parity_have_their_closed_form(name):
    for case in several_ranks(name):
        plan = case.plan
        extra = case.sizes.get("extra_warmup", plan.num_units)  # terapipe warms up with everything
        wait = min(extra, plan.num_units - plan.num_chunks) + plan.num_chunks - 1
        last = 2 * plan.num_ranks - 1
        forwards, backwards = _ticks_by_rank(plan)
        for rank in range(plan.num_ranks):
            assert forwards[rank] == [2 * u + rank for u in range(plan.num_units)]
            assert backwards[rank] == [2 * (i + wait) + last - rank for i in range(plan.num_units)]


@pytest.mark.parametrize("name", ["1f1b-lockstep", "seq1f1b-lockstep"])
def test_ticks_of_lockstep_have_their_closed_form(name):
    """A message takes a double tick to the next rank, and as long back."""
    for case in several_ranks(name):
        plan = case.plan
        last = plan.num_ranks - 1
        forwards, backwards = _ticks_by_rank(plan)
        for rank in range(plan.num_ranks):
            first = plan.num_chunks - 1 + last + (last - rank)
            assert forwards[rank] == [2 * (u + rank) for u in range(plan.num_units)]
            assert backwards[rank] == [2 * (first + i) + 1 for i in range(plan.num_units)]


def several_ranks(name):
    return [case for case in cases_of(name) if case.plan.num_ranks > 1]


def test_one_stage_alone_has_no_idle_tick(all_cases):
    for case in all_cases:
        if case.plan.num_stages == 1:
            ticks = assign_ticks(case.plan)
            sending = [a for a in case.plan.ranks[0] if a.op is not Op.W]
            assert [ticks[action] for action in sending] == list(range(len(sending))), case


@pytest.mark.parametrize("num_chunks", [1, 3])
def test_one_stage_alone_holds_one_microbatch(num_chunks):
    lengths = (5, 3, 1)[:num_chunks]
    plan = make_plan("seq1f1b", num_ranks=1, num_microbatches=4, num_chunks=num_chunks)
    table = lower(plan, lengths)
    held = (table.arena_tokens_per_rank, table.loss_tokens, table.cache_tokens)
    assert held == ((sum(lengths),), sum(lengths), sum(lengths))


def _ticks_by_rank(plan):
    ticks = assign_ticks(plan)
    return [[[ticks[a] for a in row if a.op is op] for row in plan.ranks] for op in (Op.F, Op.B)]


def test_actions_that_send_keep_to_the_ticks_of_the_exchange(all_cases):
    for case in all_cases:
        table = case.table
        for rank in range(case.plan.num_ranks if case.plan.num_stages > 1 else 0):
            op = table.actions.op[:, rank]
            for wanted, op_class in ((op == FORWARD, Op.F), (op > FORWARD, Op.B)):
                parity = np.flatnonzero(wanted) % 2
                assert (parity == table.exchange.tick_class(op_class, rank)).all(), case
        assert table.num_ticks % 2 == 0
        busy = (table.actions.op != NO_ACTION) | (table.weights.stage != NO_STAGE)
        assert busy[-2:].any(), "the last pair of ticks does something"


def test_columns_are_int32_read_only_and_zero_where_nothing_runs(all_cases):
    for case in all_cases[::7]:
        table = case.table
        assert (len(table.actions), len(table.weights)) == (10, 5)
        for column in (*table.actions, *table.weights, table.arrival_slot):
            assert column.dtype == np.int32
            assert column.shape[:2] == (table.num_ticks, case.plan.num_ranks)
            assert not column.flags.writeable
        idle, no_weights = table.actions.op == NO_ACTION, table.weights.stage == NO_STAGE
        assert not any(column[idle].any() for column in table.actions)
        assert not any(column[no_weights].any() for column in table.weights[1:])


def test_equal_chunks_take_exactly_what_is_alive(cases):
    """Of the five token buffers: as much as the orders of the ranks have alive at once."""
    for case in cases:
        plan, table = case.plan, case.table
        assert table.arena_tokens_per_rank == tuple(7 * peak for peak in table.peak_units), case
        assert table.arena_bound_per_rank == table.arena_tokens_per_rank, case
        cache = tuple(7 * _most(row, {Op.F: 1, Op.B: -1, Op.I: -1}) for row in plan.ranks)
        assert table.cache_tokens_per_rank == table.cache_bound_per_rank == cache, case
        deferred = tuple(7 * _most(row, {Op.I: 1, Op.W: -1}) for row in plan.ranks)
        assert table.deferred_tokens_per_rank == deferred, case
        last_stage = plan.num_stages - 1
        last = [action for action in plan.ranks[-1] if action.stage == last_stage]
        assert table.loss_tokens == 7 * _most(last, {Op.F: 1, Op.B: -1, Op.I: -1}), case


def test_prefix_slots_are_as_many_as_sequences_alive(cases):
    """A place is free after the tick that read it last: two that only meet there take two."""
    for case in cases:
        plan, table = case.plan, case.table
        last_chunk = plan.num_chunks - 1
        for rank, row in enumerate(plan.ranks):
            backwards = [a for a in row if a.op in (Op.B, Op.I)]
            signs = ((a.chunk == last_chunk, a.chunk == 0) for a in backwards)
            prefixes = _highest(sign for first, last in signs for sign in (first, -last))
            assert table.prefix_slots_per_rank[rank] == (prefixes if last_chunk else 0), case


def _most(row, change):
    return _highest(change.get(action.op, 0) for action in row)


def _highest(changes):
    return max(accumulate(changes), default=0)


def test_named_schedules_hold_the_prefix_gradients_of_one_sequence(cases):
    for case in cases:
        assert case.table.num_prefix_slots == int(case.plan.num_chunks > 1), case


def test_inbox_holds_one_message(cases):
    """But where a group of more than P units waits at the wrap of a ring."""
    for case in cases:
        plan, slots = case.plan, case.table.inbox_slots_per_rank
        if plan.stages_per_rank == 1:
            assert set(slots) == {1}, case
        elif not case.sizes["short_warmup"]:
            sizes = plan.num_ranks, plan.num_microbatches, plan.num_chunks
            excess = max(0, plan.num_chunks * group_sizes(*sizes)[0] - plan.num_ranks)
            assert set(slots[1:-1]) <= {1}, case
            assert max(slots) <= 1 + 2 * excess, case


def test_unequal_chunks_take_no_more_than_padded_ones(cases):
    for case in cases[::5]:
        lengths = tuple(13 - 2 * chunk for chunk in range(case.plan.num_chunks))
        table = lower(case.plan, lengths)
        for tokens, peak in zip(table.arena_tokens_per_rank, table.peak_units, strict=True):
            assert tokens <= peak * max(lengths), case


@pytest.mark.parametrize(
    ("num_ranks", "lengths", "most"),
    [
        (8, (23808, 16512, 13568, 11648), 1.008),  # 30b, 65536 tokens
        (4, (6144, 5120, 4480, 3968, 3584, 3328, 3200, 2944), 1.046),  # 7b, 32768 tokens
        (4, (3072, 2816, 2560, 2432, 2304, 2176, 2048, *(1920, 1920, 1792, 1792, 1664, 1664),
             *(1536,) * 3), 1.0),  # 13b, 32768 tokens
    ],
    ids=["C=4", "C=8", "C=16"],
)  # fmt: skip
def test_balanced_chunks_are_packed_closely(num_ranks, lengths, most):
    """First fit alone is 7, 12 and 7 % above the bound; many microbatches change nothing."""
    for num_microbatches in (16, 40):
        sizes = {"num_ranks": num_ranks, "num_microbatches": num_microbatches}
        table = lower(make_plan("seq1f1b", num_chunks=len(lengths), **sizes), lengths)
        assert table.arena_bound <= table.arena_tokens <= most * table.arena_bound
        assert (table.cache_tokens, table.cache_bound) == (table.arena_tokens, table.arena_bound)


def test_keys_and_values_go_before_the_residuals_that_a_weight_gradient_needs():
    table = lower(parse_grid("rank 0  F0.0 I0.0 F1.0 I1.0 W0.0 W1.0", name="hand"), [8])
    assert (table.cache_tokens, table.arena_tokens) == (8, 16)


def test_evaluation_keeps_nothing_for_a_backward():
    table = lower(forward_plan(num_ranks=3, num_microbatches=4, num_chunks=2), (5, 3))
    assert table.forward_only
    assert table.ops == (Op.F,)
    nothing = (0, 0, 0)
    assert table.arena_tokens_per_rank == table.peak_units == nothing
    assert table.deferred_tokens_per_rank == table.prefix_slots_per_rank == nothing
    assert table.loss_tokens == 0
    assert table.cache_tokens_per_rank == table.cache_bound_per_rank == (8, 8, 8)
    assert not table.actions.arena_offset.any()
    assert table.num_ticks == 18  # the last unit, 7, runs on rank 2 in tick 16


def test_sizes_of_a_table_with_split_backwards_and_several_stages_per_rank():
    sizes = {"num_ranks": 3, "num_microbatches": 6, "num_chunks": 1}
    split = lower(make_plan("zb-h1", **sizes), [8])
    assert split.ops == (Op.F, Op.I, Op.W)
    assert (split.num_ranks, split.num_stages, split.seq_len) == (3, 3, 8)
    assert (split.arena_tokens, split.deferred_tokens, split.loss_tokens) == (24, 24, 8)
    ring = lower(make_plan("1f1b-i", **sizes), [8])
    assert ring.ops == (Op.F, Op.B)
    assert (ring.num_ranks, ring.num_stages, ring.num_chunks) == (3, 6, 1)
    assert ring.pairs(5) == ((0, 1), (1, 2), (2, 0))  # of the Fs in tick 4


@pytest.mark.parametrize(
    ("grid", "lengths", "inbox", "prefix"),
    [
        # rank 1 takes the microbatches in the other order: the first message waits
        ("rank 0  F0.0 F1.0 B1.0 B0.0\nrank 1  F1.0 F0.0 B1.0 B0.0", (4,), (1, 2), (0, 0)),
        # a longer warm-up on rank 0 only: the first gradients wait
        (
            "rank 0  F0.0 F1.0 F2.0 B0.0 B1.0 B2.0\nrank 1  F0.0 B0.0 F1.0 B1.0 F2.0 B2.0",
            (4,),
            (2, 1),
            (0, 0),
        ),
        # backwards of two sequences at once
        ("rank 0  F0.0 F0.1 F1.0 F1.1 B0.1 B1.1 B0.0 B1.0", (4, 4), (1,), (2,)),
    ],
    ids=["crossed", "early gradients", "two at once"],
)
def test_plans_by_hand_get_the_room_they_need(grid, lengths, inbox, prefix):
    table = lower(parse_grid(grid, name="hand"), lengths)
    assert table.inbox_slots_per_rank == inbox
    assert table.prefix_slots_per_rank == prefix


@pytest.mark.parametrize(
    ("lengths", "reported"),
    [((4, 4, 4), "3 chunk lengths .* num_chunks=2"), ((8, 0), r"\[8, 0\]"), ((), "0 chunk")],
)
def test_wrong_lengths_are_refused(lengths, reported):
    plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=1, num_chunks=2)
    with pytest.raises(ValueError, match=reported):
        lower(plan, lengths)


def test_plans_that_cannot_run_are_refused():
    with pytest.raises(PlanError, match=r"rank 0, action 2: B0\.0 comes before B0\.1"):
        lower(parse_grid("rank 0  F0.0 F0.1 B0.0 B0.1", name="hand"), (4, 4))


def test_an_odd_ring_by_parity_is_refused():
    plan = make_plan("1f1b-i", num_ranks=3, num_microbatches=3, num_chunks=1)
    with pytest.raises(ValueError, match="ring of num_ranks=3 .* or 'lockstep'"):
        lower(replace(plan, exchange=Exchange.PARITY), [4])


@pytest.mark.parametrize("sizes", [(2, 3, 2, 2), (4, 4, 1, 2), (4, 3, 2, 3), (6, 6, 1, 2)], ids=str)
def test_an_even_ring_by_parity_computes_what_it_should(sizes):
    names = ("num_ranks", "num_microbatches", "num_chunks", "stages_per_rank")
    plan = make_plan("seq1f1b-i", **dict(zip(names, sizes, strict=True)))
    table = lower(replace(plan, exchange=Exchange.PARITY), (3,) * plan.num_chunks)
    replay(table)
    assert table.exchange is Exchange.PARITY
