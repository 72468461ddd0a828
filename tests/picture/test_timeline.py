"""What a timeline refuses, and what it holds of a simulation."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from seq1f1b_jax.picture import Timeline, timeline_of
from seq1f1b_jax.picture.memory import memory_axes
from seq1f1b_jax.picture.timeline import check_together
from seq1f1b_jax.schedule import Action, Costs, Op, forward_plan, make_plan, peak_units, simulate
from tests.picture.cases import PLANS, one_box, simulated, span, timeline

REFUSED = [
    ({"num_ranks": 0}, "num_ranks=0"),
    ({"unit": "s"}, "unit='s'"),
    ({"memory_unit": "MB"}, "memory_unit='MB'"),
    ({"title": "two\nlines"}, "title or note 'two\\\\nlines'"),
    ({"notes": ("bell \a",)}, "title or note 'bell \\\\x07'"),
    ({"spans": ()}, "0 spans and lasts 0"),
    ({"spans": (span(0, 0),)}, "1 spans and lasts 0"),
    ({"spans": (span(0, 1, rank=3),)}, "rank 3, outside num_ranks=1"),
    ({"spans": (span(2, 1),)}, "runs from 2 to 1"),
    ({"spans": (span(-1, 1),)}, "runs from -1 to 1"),
    ({"spans": (span(0, float("inf")),)}, "runs from 0 to inf"),
    ({"spans": (span(0, 2), span(1, 3, chunk=1))}, r"F0\.1 starts at 1, before F0\.0 ends at 2"),
    ({"memory": ((), ())}, "2 curves for num_ranks=1"),
    ({"memory": (((1, 1), (1, 2)),)}, "curve of rank 0 must ascend"),
    ({"memory": (((0, -4),),)}, "memory of rank 0 is -4 at time 0"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_what_cannot_be_drawn_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        one_box(**settings)


def test_rounding_is_no_overlap():
    spans = (span(0, 0.1 + 0.2), span(0.3, 1, chunk=1))
    assert spans[1].start < spans[0].end
    assert one_box(spans=spans).end == 1


def test_one_picture_has_one_unit_of_time():
    predicted, measured = one_box(title="predicted"), one_box(title="measured", unit="ms")
    with pytest.raises(ValueError, match="'predicted' is in units of cost and 'measured' in ms"):
        check_together([predicted, measured])
    with pytest.raises(ValueError, match="picture of 0 timelines"):
        check_together([])


@pytest.mark.parametrize("name", PLANS)
def test_spans_are_the_simulated_times(name):
    plan, simulation = simulated(name)
    drawn = timeline(name)
    assert len(drawn.spans) == len(simulation.starts)
    for row, actions in zip(drawn.rows, plan.ranks, strict=True):
        assert tuple(span.action for span in row) == actions
    for span_ in drawn.spans:
        assert span_.start == simulation.starts[span_.action]
        assert span_.end == simulation.ends[span_.action]
    assert (drawn.end, drawn.num_chunks) == (simulation.makespan, plan.num_chunks)
    assert drawn.stages_per_rank == plan.stages_per_rank


@pytest.mark.parametrize("name", PLANS)
def test_peak_of_the_curve_is_the_peak_of_the_plan(name):
    plan, simulation = simulated(name)
    assert timeline(name).peaks == peak_units(plan)
    shares = timeline_of(simulation, title="", memory_unit="microbatches").peaks
    share = plan.stages_per_rank * plan.num_chunks
    np.testing.assert_allclose(shares, np.array(peak_units(plan)) / share, rtol=1e-15)
    assert all(curve[-1][1] == 0 for curve in timeline(name).memory)


def test_memory_of_a_hand_computed_plan():
    # rank 0  F0 F1 .. B0-- .. B1--
    # rank 1  .. F0 B0-- F1 B1-- ..
    plan = make_plan("1f1b", num_ranks=2, num_microbatches=2, num_chunks=1)
    drawn = timeline_of(simulate(plan, Costs(forward=1, backward=2)), title="")
    assert drawn.memory == (
        ((0, 1), (1, 2), (6, 1), (9, 0)),
        ((1, 1), (7, 0)),  # F1 takes the place of B0 at 4
    )


def test_a_split_backward_holds_its_unit_until_the_weights_ran():
    _, simulation = simulated("split")
    curve = timeline("split").memory[0]
    ends = sorted(simulation.ends[a] for a in simulation.ends if a.op is Op.W and a.stage == 0)
    assert curve[-1] == (ends[-1], 0)
    first = Action(Op.I, 0, 0, 1)
    before, after = (_value(curve, simulation.ends[first] + shift) for shift in (-0.5, 0.5))
    assert before == after == 5


def _value(curve, time):
    return max((step for step in curve if step[0] <= time), default=(0, 0))[1]


def test_bytes_per_unit_add_up():
    _, simulation = simulated("small")
    unit_bytes = np.array([[3e9, 1e9]] * 3 + [[7e9, 5e9]])
    drawn = timeline_of(simulation, title="", unit_bytes=unit_bytes)
    assert drawn.memory_unit == "GB"
    # at their fullest rank 0 holds chunks 0 1 0 1 0, the last rank chunk 0 of two microbatches
    assert (drawn.peaks[0], drawn.peaks[3]) == (3 * 3 + 2 * 1, 7 + 7)
    assert drawn.memory[0][:2] == ((0, 3), (1, 4))


def test_bytes_and_gigabytes_go_together():
    _, simulation = simulated("small")
    with pytest.raises(ValueError, match="memory_unit='GB' without unit_bytes"):
        timeline_of(simulation, title="", memory_unit="GB")
    with pytest.raises(ValueError, match="memory_unit='units' with unit_bytes"):
        timeline_of(simulation, title="", memory_unit="units", unit_bytes=1)
    with pytest.raises(ValueError, match=r"unit_bytes of shape \(3,\) .* num_stages=4"):
        timeline_of(simulation, title="", unit_bytes=[1, 2, 3])


def test_exact_fractions_become_times():
    plan = make_plan("seq1f1b", num_ranks=3, num_microbatches=2, num_chunks=3)
    simulation = simulate(plan, Costs(forward=Fraction(1, 3), backward=Fraction(2, 3)))
    drawn = timeline_of(simulation, title="thirds")
    assert drawn.peaks == peak_units(plan)
    assert drawn.end == pytest.approx(float(simulation.makespan), rel=1e-15)


def test_notes_tell_machine_step_and_bubble():
    _, simulation = simulated("wide")
    notes = timeline("wide").notes
    assert notes == ("asynchronous machine", "step 117", "bubble 17.9 %")
    assert timeline_of(simulation, title="", unit="ms").notes[1] == "step 117 ms"
    assert timeline_of(simulation, title="", notes=["mine"]).notes == ("mine",)


def test_a_forward_plan_holds_nothing():
    plan = forward_plan(num_ranks=2, num_microbatches=2, num_chunks=1)
    assert timeline_of(simulate(plan, Costs(forward=1, backward=2)), title="").memory == ()


def test_layer_groups_count_from_the_input():
    spans = (span(0, 1, stage=5), span(1, 2, stage=0), span(2, 3, stage=3))
    groups = one_box(spans=spans).layer_groups
    assert groups == {(0, 0): 0, (0, 3): 1, (0, 5): 2}


def test_timelines_of_one_unit_share_a_memory_scale():
    low, high = one_box(memory=(((0, 2),),)), one_box(memory=(((0, 8),),))
    gigabytes = replace(low, memory_unit="GB")
    axes = memory_axes([low, high, gigabytes, one_box(memory_unit="microbatches")])
    assert (axes["units"].top, axes["GB"].top, axes["microbatches"].top) == (8, 2, 1)


@pytest.mark.parametrize(
    ("gigabytes", "heading", "text"),
    [
        (80, "peak GB", "80"),
        (0.25, "peak GB", "0.25"),
        (0.0123, "peak MB", "12.3"),
        (2.5e-6, "peak kB", "2.5"),
        (7e-9, "peak bytes", "7"),
    ],
)
def test_small_memory_is_written_in_small_units(gigabytes, heading, text):
    held = one_box(memory=(((0, gigabytes),),), memory_unit="GB")
    axis = memory_axes([held])["GB"]
    assert (axis.heading, axis.text(gigabytes)) == (heading, text)


def test_a_timeline_is_a_value():
    assert timeline("small") == Timeline(
        "small",
        4,
        timeline("small").spans,
        memory=timeline("small").memory,
        notes=timeline("small").notes,
    )
