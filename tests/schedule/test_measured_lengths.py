"""Chunk lengths by measured costs: against all cuts, and never worse than those that are known."""

from itertools import combinations, pairwise

import numpy as np
import pytest

from seq1f1b_jax.schedule import Costs, balanced_lengths, even_lengths, make_plan, simulate
from seq1f1b_jax.schedule.simulation.lengths import SCRATCH_LAYERS, peak_tokens
from seq1f1b_jax.schedule.simulation.many import Timetable
from seq1f1b_jax.schedule.simulation.measured import MeasuredCosts
from seq1f1b_jax.schedule.simulation.measured_lengths import Limits, measured_lengths
from tests.schedule.made_costs import LAYER, made_table, random_costs, sizes_of

BLOCK = 64


def step_seconds(plan, cost, lengths):
    return simulate(plan, cost.costs(lengths), machine="executor").makespan


def memory(plan, cost, lengths):
    layers = max(cost.layers_per_stage)
    return layers * peak_tokens(plan, lengths) + SCRATCH_LAYERS * max(lengths)


def known_cuts(cost, seq_len, num_chunks):
    even = even_lengths(seq_len, num_chunks, block=BLOCK)
    return even, balanced_lengths(seq_len, num_chunks, cost.sizes, block=BLOCK)


def all_cuts(num_blocks, num_chunks):
    for edges in combinations(range(1, num_blocks), num_chunks - 1):
        yield tuple(BLOCK * (b - a) for a, b in pairwise((0, *edges, num_blocks)))


def test_many_steps_at_once_take_the_time_of_each_alone(cases):
    draw = np.random.default_rng(0)
    for case in cases[::7]:
        plan = case.plan
        shape = plan.num_stages, plan.num_chunks
        costs = [
            Costs(forward=1 + draw.random(shape), backward=2 + draw.random(shape), transfer=time)
            for time in (0, 0.25)
        ]
        cuts = draw.integers(1, 9, (3, plan.num_chunks))
        table = Timetable(plan)
        alone = [simulate(plan, cost, machine="executor").makespan for cost in costs]
        np.testing.assert_allclose(table.makespans(costs), alone, rtol=1e-12, err_msg=str(case))
        peaks = [peak_tokens(plan, cut.tolist()) for cut in cuts]
        assert table.peak_tokens(cuts).tolist() == peaks, str(case)


@pytest.mark.parametrize("seed", range(16))
def test_no_cut_is_faster(seed):
    """All cuts of 8 or 9 blocks in 3 or 4 chunks, with as much memory as any of them takes."""
    num_blocks, num_chunks, num_ranks = 8 + seed % 2, 3 + seed // 2 % 2, 2 + seed % 3
    name = ("seq1f1b", "seq1f1b-lockstep")[seed // 4 % 2]
    plan = make_plan(
        name, num_ranks=num_ranks, num_microbatches=1 + seed % 5, num_chunks=num_chunks
    )
    cost = random_costs(seed, num_ranks=num_ranks, block=BLOCK, num_blocks=num_blocks)
    known = known_cuts(cost, BLOCK * num_blocks, num_chunks)
    found = measured_lengths(plan, cost, known, block=BLOCK, limits=Limits(max_growth=9.0))
    times = {c: step_seconds(plan, cost, c) for c in all_cuts(num_blocks, num_chunks)}
    assert times[found] == pytest.approx(min(times.values()), rel=1e-9)


@pytest.mark.parametrize("schedule", ["seq1f1b", "seq1f1b-i", "seq1f1b-lockstep"])
@pytest.mark.parametrize("seed", range(4))
def test_no_slower_than_even_or_balanced_and_no_larger(schedule, seed):
    plan = make_plan(schedule, num_ranks=4, num_microbatches=4, num_chunks=4)
    cost = random_costs(seed, num_ranks=plan.num_stages, block=BLOCK, num_blocks=32)
    known = known_cuts(cost, 32 * BLOCK, 4)
    found = measured_lengths(plan, cost, known, block=BLOCK)
    assert sum(found) == 32 * BLOCK and not any(length % BLOCK for length in found)
    limit = min(step_seconds(plan, cost, cut) for cut in known)
    assert step_seconds(plan, cost, found) <= limit * (1 + 1e-9)
    assert memory(plan, cost, found) <= max(memory(plan, cost, cut) for cut in known)


def test_where_attention_takes_longer_than_its_operations_memory_is_the_limit():
    """The best cut is more unequal than the balanced one; a larger limit buys it."""
    plan = make_plan("seq1f1b", num_ranks=4, num_microbatches=4, num_chunks=4)
    narrow = {"num_heads": 1, "num_kv_heads": 1, "head_dim": 4}  # few operations in attention
    cost = MeasuredCosts(
        made_table(4096, (512, 1024, 2048), layer=LAYER._replace(pairs=3e-9)),
        sizes_of(2, 2, 2, 2, **narrow),
    )
    known = known_cuts(cost, 4096, 4)
    cuts = [
        measured_lengths(plan, cost, known, block=BLOCK, limits=Limits(max_growth=growth))
        for growth in (0.0, 0.04, 1.0)
    ]
    times = [step_seconds(plan, cost, cut) for cut in cuts]
    sizes = [memory(plan, cost, cut) for cut in cuts]
    most = max(memory(plan, cost, cut) for cut in known)
    assert times[0] > times[1] > times[2] and sizes[0] < sizes[1] < sizes[2]
    assert sizes[0] <= most and most < sizes[1] <= 1.04 * most


def test_a_slowdown_saves_memory():
    plan = make_plan("seq1f1b", num_ranks=4, num_microbatches=4, num_chunks=4)
    cost = MeasuredCosts(made_table(4096, (512, 1024, 2048)), sizes_of(2, 2, 2, 2))
    known = known_cuts(cost, 4096, 4)
    fast, small = (
        measured_lengths(plan, cost, known, block=BLOCK, limits=Limits(max_slowdown=slowdown))
        for slowdown in (0.0, 0.02)
    )
    assert memory(plan, cost, small) < memory(plan, cost, fast)
    ratio = step_seconds(plan, cost, small) / step_seconds(plan, cost, fast)
    assert 1 < ratio <= 1.02


def test_one_rank_waits_for_nobody():
    plan = make_plan("seq1f1b", num_ranks=1, num_microbatches=4, num_chunks=4)
    cost = MeasuredCosts(made_table(4096, (512, 1024, 2048)), sizes_of(2))
    assert measured_lengths(plan, cost, [(1024,) * 4, (1280, 1024, 896, 896)], block=BLOCK) == (
        (1024,) * 4
    )


def test_halves_that_were_not_measured_are_refused():
    plan = make_plan("seq-zb-h1", num_ranks=2, num_microbatches=4, num_chunks=4)
    cost = MeasuredCosts(made_table(4096, (512, 1024, 2048)), sizes_of(2, 2))
    with pytest.raises(ValueError, match="into I and W, and their seconds were not measured; .*"):
        measured_lengths(plan, cost, [(1024,) * 4], block=BLOCK)


def test_a_sequence_of_other_chunks_is_refused():
    plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=4, num_chunks=32)
    cost = MeasuredCosts(made_table(4096, (512, 1024, 2048)), sizes_of(2, 2))
    with pytest.raises(ValueError, match="a chunk of 128 tokens is far from what was measured"):
        measured_lengths(plan, cost, [(128,) * 32], block=BLOCK)
