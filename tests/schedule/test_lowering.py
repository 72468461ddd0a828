"""The tick table: when actions run, which messages meet, how much the buffers hold."""

import numpy as np
import pytest

from seq1f1b_jax.schedule import (
    BACKWARD,
    FORWARD,
    IDLE,
    Op,
    PlanError,
    forward_plan,
    lower,
    make_plan,
    parse_grid,
    peak_units_formula,
)
from seq1f1b_jax.schedule.lower import place


def test_ticks_have_their_closed_form(cases):
    for plan, extra_warmup in cases:
        sizes = plan.num_stages, plan.num_chunks
        extra = min(extra_warmup, plan.num_units - plan.num_chunks)
        ticks = place(plan)
        for rank, row in enumerate(plan.ranks):
            forwards = [ticks[a] for a in row if a.op is Op.F]
            backwards = [ticks[a] for a in row if a.op is Op.B]
            assert forwards == [2 * u + rank for u in range(plan.num_units)]
            assert backwards == [
                2 * (i + sizes[1] - 1 + extra) + 2 * sizes[0] - 1 - rank
                for i in range(plan.num_units)
            ]


def test_forwards_and_backwards_keep_to_their_parity(plans):
    for plan in plans:
        table = lower(plan, (1,) * plan.num_chunks)
        ticks, ranks = np.nonzero(table.op)
        parity = (ticks - ranks) % 2
        assert np.array_equal(parity == 0, table.op[ticks, ranks] == FORWARD)
        assert np.array_equal(parity == 1, table.op[ticks, ranks] == BACKWARD)
        assert table.num_ticks % 2 == 0
        assert table.op[-2:].any(), "the last pair of ticks does something"


def test_arrays_are_int32_read_only_and_zero_where_idle(plans):
    for plan in plans[::7]:
        table = lower(plan, range(1, plan.num_chunks + 1))
        for name in ("op", "microbatch", "chunk", "cache_slot", "arena_offset"):
            array = getattr(table, name)
            assert array.dtype == np.int32
            assert array.shape == (table.num_ticks, plan.num_stages)
            assert not array.flags.writeable
            assert not array[table.op == IDLE].any()


def test_equal_chunks_take_exactly_the_peak_units(cases):
    for plan, extra_warmup in cases:
        table = lower(plan, (7,) * plan.num_chunks)
        peaks = peak_units_formula(
            num_stages=plan.num_stages,
            num_microbatches=plan.num_microbatches,
            num_chunks=plan.num_chunks,
            extra_warmup=extra_warmup,
        )
        assert table.peak_units == peaks
        assert table.arena_tokens_per_rank == tuple(7 * peak for peak in peaks)
        assert table.arena_tokens == 7 * peaks[0]
        assert table.last_arena_tokens == 7 * peaks[-1]


def test_unequal_chunks_take_no_more_than_padded_ones(cases):
    for plan, _ in cases[::3]:
        lengths = tuple(13 - 2 * chunk for chunk in range(plan.num_chunks))
        table = lower(plan, lengths)
        for tokens, peak in zip(table.arena_tokens_per_rank, table.peak_units, strict=True):
            assert tokens <= peak * max(lengths)


def test_cache_slots_are_as_many_as_microbatches_alive(plans):
    for plan in plans:
        table = lower(plan, (1,) * plan.num_chunks)
        last_chunk = plan.num_chunks - 1
        last = (FORWARD, last_chunk) if plan.forward_only else (BACKWARD, 0)
        for rank in range(plan.num_stages):
            op, chunk = table.op[:, rank], table.chunk[:, rank]
            begins = (op == FORWARD) & (chunk == 0)
            ends = (op == last[0]) & (chunk == last[1])
            # A microbatch is alive from its first tick to its last, both included.
            alive = np.cumsum(begins) - np.concatenate([[0], np.cumsum(ends)[:-1]])
            assert table.cache_slots_per_rank[rank] == alive.max()
        assert table.num_cache_slots == max(table.cache_slots_per_rank)


def test_evaluation_keeps_nothing_for_a_backward():
    table = lower(forward_plan(num_stages=3, num_microbatches=4, num_chunks=2), (5, 3))
    assert table.forward_only
    assert table.arena_tokens_per_rank == table.peak_units == (0, 0, 0)
    assert table.cache_slots_per_rank == (1, 1, 1)
    assert not table.arena_offset.any()
    assert table.num_ticks == 18  # the last unit, 7, runs on rank 2 in tick 16


@pytest.mark.parametrize(
    ("lengths", "reported"),
    [((4, 4, 4), "3 chunk lengths .* num_chunks=2"), ((8, 0), r"\[8, 0\]"), ((), "0 chunk")],
)
def test_wrong_lengths_are_refused(lengths, reported):
    plan = make_plan("seq1f1b", num_stages=2, num_microbatches=1, num_chunks=2)
    with pytest.raises(ValueError, match=reported):
        lower(plan, lengths)


@pytest.mark.parametrize(
    ("grid", "lengths", "reported"),
    [
        (  # rank 1 takes the microbatches in the other order
            "rank 0  F0.0 F1.0 B1.0 B0.0\nrank 1  F1.0 F0.0 B1.0 B0.0",
            (4,),
            "rank 1, action 1: F0.0 runs in tick 5 but its message was sent in tick 0",
        ),
        (  # a longer warm-up on rank 0 only: the first gradient comes too early
            "rank 0  F0.0 F1.0 F2.0 B0.0 B1.0 B2.0\nrank 1  F0.0 B0.0 F1.0 B1.0 F2.0 B2.0",
            (4,),
            "rank 0, action 3: B0.0 runs in tick 5 but its message was sent in tick 2",
        ),
        (
            "rank 0  F0.0 F0.1 F1.0 F1.1 B0.1 B1.1 B0.0 B1.0",
            (4, 4),
            "rank 0, action 5: B1.1 starts before the backwards of microbatch 0 are over",
        ),
        ("rank 0  F0.0 F0.1 B0.0 B0.1", (4, 4), "rank 0, action 2: B0.0 stands before B0.1"),
    ],
)
def test_plans_that_the_executor_has_no_place_for_are_refused(grid, lengths, reported):
    with pytest.raises(PlanError) as caught:
        lower(parse_grid(grid, name="hand"), lengths)
    assert reported in str(caught.value)
    assert ">" in str(caught.value)
