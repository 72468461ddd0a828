"""What every schedule of the registry must pass, at every size and with every option."""

from dataclasses import replace
from fractions import Fraction
from inspect import signature
from itertools import pairwise

import pytest

from seq1f1b_jax.schedule import (
    MACHINES,
    SCHEDULES,
    Costs,
    Plan,
    draw_plan,
    draw_simulation,
    draw_table,
    lower,
    parse_grid,
    peak_units,
    replay,
    simulate,
    validate,
)
from seq1f1b_jax.schedule.formulas import closed_form
from tests.schedule.cases import OPTIONS

COSTS = {
    "B=2F": Costs(forward=1, backward=2),
    "B=2.5F": Costs(forward=1, backward=Fraction(5, 2)),
    "B<2F": Costs(forward=2, backward=3, weights=1),
    "W>I": Costs(forward=3, backward=3, weights=2),
    "W>F": Costs(forward=1, backward=4, weights=2),
    "W>F,I": Costs(forward=1, backward=3, weights=2),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_option_is_tried(name):
    sizes = {"num_ranks", "num_microbatches", "num_chunks"}
    assert set(signature(SCHEDULES[name].generate).parameters) - sizes <= set(OPTIONS)


def test_validator_accepts(all_cases):
    """It raises at a plan that is wrong, which test_validate.py shows."""
    for case in all_cases:
        validate(case.plan)


def test_peak_units_have_their_closed_form(cases):
    for case in cases:
        form = closed_form(case.name, COSTS["B=2F"], **case.sizes)
        assert peak_units(case.plan) == form.peak_units, case


@pytest.mark.parametrize("costs", COSTS)
def test_time_has_its_closed_form_on_the_machines_it_names(cases, costs):
    for case in cases[:: 1 if costs == "B=2F" else 7]:
        form = closed_form(case.name, COSTS[costs], **case.sizes)
        for machine in form.machines:
            simulation = simulate(case.plan, COSTS[costs], machine=machine)
            assert simulation.bubble == form.bubble, (case, machine)
            assert simulation.makespan == form.makespan, (case, machine)
            assert simulation.busy == (form.work,) * case.plan.num_ranks
            assert simulation.bubble_fraction == pytest.approx(form.bubble_fraction, abs=1e-12)


@pytest.mark.parametrize("costs", ["B=2F", "B=2.5F"])
def test_executor_takes_the_asynchronous_time(cases, costs):
    """Exactly: both have the closed form (see above), at all sizes but for the short warm-up."""
    for case in cases:
        machines = closed_form(case.name, COSTS[costs], **case.sizes).machines
        assert ("executor" in machines) != case.sizes.get("short_warmup", False), case


def test_replay_accepts_equal_and_unequal_chunks(all_cases):
    """It raises at a table that is wrong, which test_replay.py shows."""
    for index, case in enumerate(all_cases):
        replay(case.table)
        if case.plan.num_chunks > 1 and index % 4 == 0:
            replay(lower(case.plan, tuple(9 - chunk for chunk in range(case.plan.num_chunks))))


def test_text_is_read_back(all_cases):
    for case in all_cases:
        assert Plan.parse(case.plan.text()) == case.plan, case


def test_every_drawing_is_read_back(all_cases):
    for case in all_cases[::7]:
        drawings = (
            draw_plan(case.plan),
            draw_table(case.table),
            draw_simulation(simulate(case.plan, COSTS["B<2F"])),
        )
        for drawing in drawings:
            read = parse_grid(drawing, name=case.plan.name)
            # a grid shows no exchange: a line is read as one that exchanges by parity
            assert replace(read, exchange=case.plan.exchange) == case.plan, case


@pytest.mark.parametrize("machine", MACHINES)
def test_critical_path_takes_the_whole_step(cases, machine):
    for case in cases[::11]:
        simulation = simulate(case.plan, COSTS["B=2F"], machine=machine)
        path = simulation.critical_path
        assert simulation.starts[path[0]] == 0
        for before, after in pairwise(path):
            assert simulation.ends[before] == simulation.starts[after]
        lengths = [simulation.ends[action] - simulation.starts[action] for action in path]
        assert sum(lengths) == simulation.makespan, case
