"""Chunk lengths that weigh time against memory: between balanced and even, never both worse."""

from functools import partial
from itertools import pairwise

import pytest

from seq1f1b_jax.schedule import StageCost, balanced_lengths, even_lengths, lower, make_plan
from seq1f1b_jax.schedule.simulation.lengths import candidates, frugal_lengths, peak_tokens

SEQ_LEN, CHUNKS = 32768, 4
CUT = partial(balanced_lengths, SEQ_LEN, CHUNKS, block=128)


def cost_of(num_ranks):
    return StageCost(
        model_dim=2560, num_heads=32, num_kv_heads=32, head_dim=80, mlp_dim=10240, gated=False,
        vocab_size=50304, layers_per_stage=(32 // num_ranks,) * num_ranks,
    )  # fmt: skip


def plan_of(num_ranks, schedule="seq1f1b"):
    return make_plan(schedule, num_ranks=num_ranks, num_microbatches=8, num_chunks=CHUNKS)


def test_candidates_go_from_balanced_to_even_and_trade_time_for_memory():
    found = candidates(plan_of(8), cost_of(8), CUT, seq_len=SEQ_LEN)
    assert found[0].lengths == CUT(cost_of(8))
    assert found[-1].lengths == even_lengths(SEQ_LEN, CHUNKS, block=128)
    assert all(a.memory > b.memory and a.time < b.time for a, b in pairwise(found))


def test_a_step_is_as_much_longer_as_it_may_be_and_no_more():
    plan, cost = plan_of(8), cost_of(8)
    found = {c.lengths: c for c in candidates(plan, cost, CUT, seq_len=SEQ_LEN)}
    chosen = [
        found[frugal_lengths(plan, cost, CUT, seq_len=SEQ_LEN, max_slowdown=slowdown)]
        for slowdown in (0.0, 0.005, 0.05, 1.0)
    ]
    fastest = chosen[0].time
    assert [c.weight for c in chosen] == sorted({c.weight for c in chosen})  # all differ
    assert chosen[1].time <= 1.005 * fastest and chosen[2].time <= 1.05 * fastest
    assert chosen[0].lengths == CUT(cost) and chosen[3].weight == 1


def test_one_rank_waits_for_nobody():
    lengths = frugal_lengths(plan_of(1), cost_of(1), CUT, seq_len=SEQ_LEN, max_slowdown=0.0)
    assert lengths == even_lengths(SEQ_LEN, CHUNKS, block=128)


@pytest.mark.parametrize("schedule", ["seq1f1b", "seq-zb-h1"])
def test_tokens_in_flight_are_those_that_an_arena_needs_at_least(schedule):
    plan, lengths = plan_of(4, schedule), (5, 7, 3, 2)
    table = lower(plan, lengths)
    assert 0 <= max(table.arena_tokens_per_rank) - peak_tokens(plan, lengths) <= sum(lengths)
