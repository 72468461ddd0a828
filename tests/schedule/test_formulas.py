"""The closed forms against simulation, for any costs, and where they end."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq1f1b_jax.schedule import MACHINES, SCHEDULES, Costs, make_plan, peak_units, simulate
from seq1f1b_jax.schedule.formulas import closed_form

SIZES = {"num_ranks": 8, "num_microbatches": 8, "num_chunks": 4}
CHUNKED = [name for name in SCHEDULES if not SCHEDULES[name].chunked_name]

_times = st.integers(0, 9)


@given(
    st.sampled_from(CHUNKED),
    st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 5)),
    st.tuples(_times, _times, _times),
)
@settings(max_examples=200, deadline=None)
def test_simulation_agrees_for_any_equal_costs(name, sizes, times):
    forward, inputs, weights = times
    costs = Costs(forward=forward, backward=inputs + weights, weights=weights)
    arguments = dict(zip(SIZES, sizes, strict=True))
    plan, form = make_plan(name, **arguments), closed_form(name, costs, **arguments)
    assert peak_units(plan) == form.peak_units
    for machine in form.machines:
        simulation = simulate(plan, costs, machine=machine)
        assert simulation.makespan == form.makespan, machine
        assert simulation.bubble == form.bubble, machine


@pytest.mark.parametrize(
    ("name", "options", "peak", "bubble", "peak_rule", "bubble_rule"),
    [
        ("terapipe", {}, 32, 21, "M*C", "(P-1)(F+B)"),
        ("seq1f1b", {}, 11, 21, "min(P-p-1+C, M*C)", "(P-1)(F+B)"),
        ("seq1f1b", {"extra_warmup": 3}, 14, 21, "min(P-p-1+C+3, M*C)", "(P-1)(F+B)"),
        ("seq1f1b-lockstep", {}, 18, 21, "min(2(P-p-1)+C, M*C)", "(P-1)(F+B)"),
        ("seq1f1b-i", {}, 26, 21, "min((V-1)g+2(P-p-1)+C, V*M*C), g=8", "(P-1)(F+B)/V"),
        ("seq1f1b-i", {"stages_per_rank": 3}, 34, 21, "min((V-1)g+2(P-p-1)+C, V*M*C), g=8", None),
        ("seq1f1b-i", {"short_warmup": True}, 19, 21, "min((V-1)g+P-p-1+C, V*M*C), g=8", None),
        ("seq-zb-h1", {}, 11, 7, "min(P-1+C, M*C)", "(P-1)(F+I-W)"),
    ],
)
def test_figures_and_rules(name, options, peak, bubble, peak_rule, bubble_rule):
    form = closed_form(name, Costs(forward=1, backward=2), **SIZES, **options)
    assert (max(form.peak_units), form.bubble, form.peak_rule) == (peak, bubble, peak_rule)
    assert form.bubble_rule == (bubble_rule or "(P-1)(F+B)/V")
    assert form.makespan == form.work + bubble
    assert form.bubble_fraction == float(bubble / form.makespan)


@pytest.mark.parametrize(
    ("name", "change", "weights", "bubble", "rule"),
    [
        # three units on eight ranks: another gap of five in the second round
        ("1f1b-i", {"num_microbatches": 3}, 1, 12 * 3, "(P-1+(V-1)(P-M*C))(F+B)/V"),
        # memory that is never full leaves six of seven places for a W unfilled
        ("zb-h1", {"num_microbatches": 2}, 1, 14 - 1, "max((P-1)F, (P-1)(F+I)-min((M-1)C, P-1)m"),
        # the first forward passes seven ranks, whatever fills the rest
        ("zb-h1", {}, 1.5, 7 * 1, "max((P-1)F, (P-1)(F+I)-min((M-1)C, P-1)m"),
    ],
    ids=["few units in a ring", "few units", "long W"],
)
def test_rules_where_the_simple_ones_end(name, change, weights, bubble, rule):
    arguments = SIZES | {"num_chunks": 1} | change
    form = closed_form(name, Costs(forward=1, backward=2, weights=weights), **arguments)
    assert form.bubble == bubble
    assert form.bubble_rule.startswith(rule)


@pytest.mark.parametrize(
    ("name", "options", "weights", "machines"),
    [
        ("seq1f1b", {}, 1, MACHINES[:2]),
        ("seq1f1b-lockstep", {}, 1, MACHINES),
        ("seq1f1b-i", {}, 1, MACHINES),
        ("seq1f1b-i", {"short_warmup": True}, 1, MACHINES[:1]),
        ("seq-zb-h1", {}, 1, MACHINES[:2]),
        ("seq-zb-h1", {}, 2, MACHINES[:1]),  # W longer than F and I
    ],
)
def test_machines_it_holds_on(name, options, weights, machines):
    costs = Costs(forward=1, backward=weights + 1, weights=weights)
    assert closed_form(name, costs, **SIZES, **options).machines == machines


@pytest.mark.parametrize(
    "costs",
    [
        Costs(forward=[1, 1, 1, 2], backward=2, weights=1),
        Costs(forward=1, backward=np.arange(2, 10)[:, None]),
        Costs(forward=1, backward=2, transfer=1),
    ],
    ids=["chunks", "stages", "transfer"],
)
def test_unequal_costs_have_no_closed_form_of_time(costs):
    form = closed_form("seq1f1b", costs, **SIZES)
    assert form.bubble is form.work is form.makespan is form.bubble_fraction is None
    assert form.machines == ()
    assert form.bubble_rule.startswith("none: ")
    assert max(form.peak_units) == 11


def test_costs_of_operations_that_a_schedule_has_not_do_not_matter():
    costs = Costs(forward=1, backward=2, weights=[0, 1, 1, 1])
    assert closed_form("seq1f1b", costs, **SIZES).bubble == 21
    assert closed_form("seq-zb-h1", costs, **SIZES).bubble is None


def test_nothing_takes_no_time():
    form = closed_form("seq1f1b", Costs(forward=0, backward=0), **SIZES)
    assert form.bubble_fraction == form.makespan == 0


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="did you mean 'seq1f1b'"):
        closed_form("seq1f2b", Costs(forward=1, backward=2), **SIZES)
