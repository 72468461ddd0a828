"""Plans as text: what is written is read back, and what cannot be read is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seq1f1b_jax.schedule import Action, Op, Plan, draw_plan, make_plan, parse_grid

_indices = st.integers(0, 10**6)
_actions = st.builds(Action, st.sampled_from(Op), _indices, _indices, _indices)


@given(_actions, _indices)
def test_action_text_is_read_back(action, rank):
    assert Action.parse(action.text(rank), rank) == action


def test_action_of_the_own_stage_names_no_stage():
    assert Action(Op.F, stage=1, microbatch=2, chunk=1).text(rank=1) == "F2.1"
    assert Action(Op.B, stage=3, microbatch=0, chunk=12).text(rank=1) == "B0.12@3"


@pytest.mark.parametrize("text", ["", "F", "F2", "f2.1", "F2.1 ", "W2.1", "F-1.0", "F2.1@"])
def test_what_is_no_action_is_refused(text):
    with pytest.raises(ValueError, match="rank 7"):
        Action.parse(text, rank=7)


@given(
    st.lists(st.lists(_actions, max_size=5).map(tuple), min_size=1, max_size=4).map(tuple),
    st.integers(1, 99),
    st.integers(1, 99),
)
def test_plan_text_is_read_back_for_any_plan(ranks, num_microbatches, num_chunks):
    plan = Plan("any", len(ranks), num_microbatches, num_chunks, ranks)
    assert Plan.parse(plan.text()) == plan


def test_text_and_grid_of_every_generator_are_read_back(plans):
    for plan in plans:
        assert Plan.parse(plan.text()) == plan
        assert parse_grid(draw_plan(plan), name=plan.name) == plan


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("seq1f1b stages=2", "stages=2"),
        ("seq1f1b stages=3 microbatches=1 chunks=1\nF0.0 B0.0\nF0.0 B0.0", "3 has 2 rows"),
        ("seq1f1b stages=1 microbatches=0 chunks=1\n", "num_microbatches=0"),
        ("seq1f1b stages=1 microbatches=1 chunks=1\nF0.0 B0", "'B0'"),
    ],
)
def test_unreadable_plan_text_says_what_is_wrong(text, reported):
    with pytest.raises(ValueError, match=reported):
        Plan.parse(text)


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        ({"name": "seq1f2b"}, "'seq1f2b' is not known; did you mean 'seq1f1b'"),
        ({"name": "zb"}, "use one of gpipe, 1f1b, seq1f1b"),
        ({"num_stages": 0}, "num_stages=0"),
        ({"num_microbatches": -1}, "num_microbatches=-1"),
        ({"num_chunks": 0}, "num_chunks=0"),
        ({"extra_warmup": -2}, "extra_warmup=-2"),
        ({"name": "1f1b", "num_chunks": 3}, "num_chunks=3"),
        ({"name": "gpipe", "extra_warmup": 4}, "extra_warmup=4"),
    ],
)
def test_impossible_schedules_are_refused(arguments, reported):
    valid = {"name": "seq1f1b", "num_stages": 2, "num_microbatches": 2, "num_chunks": 2}
    with pytest.raises(ValueError, match=reported):
        make_plan(**(valid | arguments))
