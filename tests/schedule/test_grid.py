"""Golden grids: the schedules as a person checks them."""

from importlib import import_module
from textwrap import indent

import pytest

from seq1f1b_jax.schedule import (
    draw_plan,
    draw_simulation,
    draw_table,
    forward_plan,
    lower,
    make_plan,
    parse_grid,
    simulate,
)
from seq1f1b_jax.schedule.grid import draw_marked

GOLDEN = {
    ("gpipe", 2, 2, 2, 0): """
rank 0  F0.0 F0.1 F1.0 F1.1 B0.1 B0.0 B1.1 B1.0
rank 1  F0.0 F0.1 F1.0 F1.1 B0.1 B0.0 B1.1 B1.0
""",
    ("1f1b", 4, 4, 1, 0): """
rank 0  F0.0 F1.0 F2.0 F3.0 B0.0 B1.0 B2.0 B3.0
rank 1  F0.0 F1.0 F2.0 B0.0 F3.0 B1.0 B2.0 B3.0
rank 2  F0.0 F1.0 B0.0 F2.0 B1.0 F3.0 B2.0 B3.0
rank 3  F0.0 B0.0 F1.0 B1.0 F2.0 B2.0 F3.0 B3.0
""",
    ("seq1f1b", 4, 4, 2, 0): """
rank 0  F0.0 F0.1 F1.0 F1.1 F2.0 B0.1 F2.1 B0.0 F3.0 B1.1 F3.1 B1.0 B2.1 B2.0 B3.1 B3.0
rank 1  F0.0 F0.1 F1.0 F1.1 B0.1 F2.0 B0.0 F2.1 B1.1 F3.0 B1.0 F3.1 B2.1 B2.0 B3.1 B3.0
rank 2  F0.0 F0.1 F1.0 B0.1 F1.1 B0.0 F2.0 B1.1 F2.1 B1.0 F3.0 B2.1 F3.1 B2.0 B3.1 B3.0
rank 3  F0.0 F0.1 B0.1 F1.0 B0.0 F1.1 B1.1 F2.0 B1.0 F2.1 B2.1 F3.0 B2.0 F3.1 B3.1 B3.0
""",
    ("seq1f1b", 3, 2, 2, 1): """
rank 0  F0.0 F0.1 F1.0 F1.1 B0.1 B0.0 B1.1 B1.0
rank 1  F0.0 F0.1 F1.0 F1.1 B0.1 B0.0 B1.1 B1.0
rank 2  F0.0 F0.1 F1.0 B0.1 F1.1 B0.0 B1.1 B1.0
""",
    ("seq1f1b", 1, 1, 3, 0): """
rank 0  F0.0 F0.1 F0.2 B0.2 B0.1 B0.0
""",
}


def _plan(name, num_stages, num_microbatches, num_chunks, extra_warmup=0):
    return make_plan(
        name,
        num_stages=num_stages,
        num_microbatches=num_microbatches,
        num_chunks=num_chunks,
        extra_warmup=extra_warmup,
    )


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: "-".join(map(str, case)))
def test_order_of_work(case):
    assert draw_plan(_plan(*case)) == GOLDEN[case].strip("\n")


def test_order_of_work_of_evaluation():
    plan = forward_plan(num_stages=2, num_microbatches=2, num_chunks=2)
    assert draw_plan(plan) == "rank 0  F0.0 F0.1 F1.0 F1.1\nrank 1  F0.0 F0.1 F1.0 F1.1"


def test_course_of_time():
    plan = _plan("seq1f1b", 2, 2, 2)
    drawing = """
rank 0  F0.0 F0.1 F1.0 .... .... B0.1----- F1.1 B0.0----- .... B1.1----- B1.0-----
rank 1  .... F0.0 F0.1 B0.1----- F1.0 B0.0----- F1.1 B1.1----- B1.0----- .... ....
"""
    assert draw_simulation(simulate(plan, 1, 2)) == drawing.strip("\n")


@pytest.mark.parametrize("name", ["gpipe", "seq1f1b"])
def test_pictures_in_the_docstrings_are_true(name):
    drawing = draw_simulation(simulate(_plan(name, 2, 2, 2), 1, 2))
    assert indent(drawing, "    ") in import_module(f"seq1f1b_jax.schedule.{name}").__doc__


def test_tick_table():
    plan = _plan("seq1f1b", 3, 2, 2)
    drawing = """
rank 0  F0.0 .... F0.1 .... F1.0 .... F1.1 B0.1 .... B0.0 .... B1.1 .... B1.0
rank 1  .... F0.0 .... F0.1 .... F1.0 B0.1 F1.1 B0.0 .... B1.1 .... B1.0 ....
rank 2  .... .... F0.0 .... F0.1 B0.1 F1.0 B0.0 F1.1 B1.1 .... B1.0 .... ....
"""
    assert draw_table(lower(plan, (1, 1))) == drawing.strip("\n")


def test_every_drawing_is_read_back(plans):
    for plan in plans:
        drawings = (
            draw_table(lower(plan, (1,) * plan.num_chunks)),
            draw_simulation(simulate(plan, 1, 3)),
        )
        for drawing in drawings:
            assert parse_grid(drawing, name=plan.name) == plan


def test_rows_line_up_with_two_digit_labels_and_ranks():
    lines = draw_plan(_plan("1f1b", 11, 11, 1)).splitlines()
    assert lines[0].startswith("rank  0  F0.0  F1.0 ")
    assert lines[10].startswith("rank 10  F0.0  B0.0 ")
    assert len(set(map(len, lines))) == 1


def test_a_column_that_does_not_divide_the_times_is_refused():
    with pytest.raises(ValueError, match="column=2"):
        draw_simulation(simulate(_plan("1f1b", 1, 1, 1), 1, 2), column=2)


def test_grid_without_actions_is_refused():
    with pytest.raises(ValueError, match="holds no action"):
        parse_grid("rank 0  .... ....\n", name="empty")


def test_long_plans_are_drawn_around_the_marked_cell():
    drawing = draw_marked(_plan("seq1f1b", 2, 16, 4), rank=1, index=60)
    assert ">B7.3<" in drawing.splitlines()[1]
    assert drawing.count("<") == 1
    assert drawing.splitlines()[-1] == "(actions 48 to 71 of 128)"
