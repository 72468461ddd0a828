"""Time: the closed forms hold exactly, and the figures of the design come out."""

from fractions import Fraction

import numpy as np
import pytest

from seq1f1b_jax.schedule import (
    bubble_formula,
    bubble_fraction_formula,
    forward_plan,
    lower,
    make_plan,
    peak_units,
    peak_units_formula,
    simulate,
    simulate_table,
)

COSTS = [(1, 2), (2, 1), (Fraction(1, 3), Fraction(5, 7))]


def test_peak_units_have_their_closed_form(cases):
    for plan, extra_warmup in cases:
        assert peak_units(plan) == peak_units_formula(
            num_stages=plan.num_stages,
            num_microbatches=plan.num_microbatches,
            num_chunks=plan.num_chunks,
            extra_warmup=extra_warmup,
        )


@pytest.mark.parametrize(("forward", "backward"), COSTS)
def test_bubble_has_its_closed_form(cases, forward, backward):
    for plan, _ in cases:
        simulation = simulate(plan, forward, backward)
        assert simulation.bubble == bubble_formula(plan.num_stages, forward, backward)
        fraction = bubble_fraction_formula(plan.num_stages, plan.num_units)
        assert simulation.bubble_fraction == pytest.approx(fraction, abs=1e-12)
        assert simulation.busy == (plan.num_units * (forward + backward),) * plan.num_stages


@pytest.mark.parametrize(("forward", "backward"), COSTS[:2])
def test_exchange_by_parity_takes_the_asynchronous_time(cases, forward, backward):
    for plan, _ in cases:
        table = lower(plan, (1,) * plan.num_chunks)
        assert simulate_table(table, forward, backward) == (
            simulate(plan, forward, backward).makespan
        )


def test_bubble_of_evaluation_is_the_way_through_the_pipeline():
    plan = forward_plan(num_stages=4, num_microbatches=3, num_chunks=2)
    assert simulate(plan, 1, 2).makespan == 6 + 3


def _time_over_ideal(num_microbatches, num_chunks, forward, backward, extra_warmup=0):
    plan = make_plan(
        "seq1f1b",
        num_stages=8,
        num_microbatches=num_microbatches,
        num_chunks=num_chunks,
        extra_warmup=extra_warmup,
    )
    simulation = simulate(plan, forward, backward)
    table = lower(plan, (1,) * num_chunks)
    ideal = max(simulation.busy)
    return simulation.makespan / ideal, simulate_table(table, forward, backward) / ideal


@pytest.mark.parametrize(
    ("num_microbatches", "num_chunks", "backward", "figure"),
    [(16, 4, 2, 1.109), (16, 4, 2.5, 1.109), (8, 1, 2, 1.875)],
)
def test_figures_of_the_design_for_equal_chunks(num_microbatches, num_chunks, backward, figure):
    asynchronous, parity = _time_over_ideal(num_microbatches, num_chunks, 1, backward)
    assert asynchronous == parity == pytest.approx(figure, abs=5e-4)


@pytest.mark.parametrize(("ratio", "figure"), [(1, 1.109), (1.2, 1.205), (2.1, 1.481)])
def test_figures_of_the_design_for_unequal_chunks(ratio, figure):
    cost = np.linspace(1, ratio, 4)
    asynchronous, parity = _time_over_ideal(16, 4, cost, 2 * cost)
    assert asynchronous == pytest.approx(figure, abs=5e-4)
    assert parity == pytest.approx(figure, abs=5e-4)


def test_extra_warmup_gains_little_on_unequal_chunks():
    cost = np.linspace(1, 2.1, 4)
    times = [_time_over_ideal(16, 4, cost, 2 * cost, extra)[1] for extra in (0, 3, 7)]
    assert times == pytest.approx([1.481, 1.470, 1.470], abs=5e-4)


def test_a_slow_stage_sets_the_pace():
    plan = make_plan("1f1b", num_stages=3, num_microbatches=8, num_chunks=1)
    simulation = simulate(plan, [[1], [3], [1]], [[2], [6], [2]])
    assert simulation.busy == (24, 72, 24)
    assert simulation.makespan == 72 + 2 * 1 + 2 * 2 - 3  # in and out of the slow stage


def test_costs_of_the_wrong_shape_are_refused():
    plan = make_plan("seq1f1b", num_stages=2, num_microbatches=2, num_chunks=3)
    with pytest.raises(
        ValueError, match=r"shape \(2,\) does not fit num_stages=2 and num_chunks=3"
    ):
        simulate(plan, [1, 2], 2)
