"""Golden grids: the schedules as a person checks them."""

from importlib import import_module
from pathlib import Path

import pytest

from seq1f1b_jax.schedule import (
    SCHEDULES,
    Costs,
    draw_plan,
    draw_simulation,
    draw_table,
    forward_plan,
    lower,
    make_plan,
    parse_grid,
    simulate,
)
from seq1f1b_jax.schedule.generators.seq1f1b import seq1f1b_lockstep
from seq1f1b_jax.schedule.grid import draw_marked

OURS = set(SCHEDULES)
GOLDEN = Path(__file__).parent / "golden"
COSTS = Costs(forward=1, backward=2)


def _plan(name, num_ranks, num_microbatches, num_chunks, **options):
    return make_plan(
        name,
        num_ranks=num_ranks,
        num_microbatches=num_microbatches,
        num_chunks=num_chunks,
        **options,
    )


def test_every_schedule_has_its_golden_grid():
    assert {path.stem for path in GOLDEN.iterdir()} == OURS


@pytest.mark.parametrize("name", SCHEDULES)
def test_order_of_work_and_ticks(name):
    num_chunks = 1 if SCHEDULES[name].chunked_name else 2
    plan = _plan(name, 4, 4, num_chunks)
    header, order, ticks = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8").split("\n\n")
    assert plan.text().splitlines()[0] == header
    assert f"order of work\n{draw_plan(plan)}" == order
    assert f"ticks\n{draw_table(lower(plan, (1,) * num_chunks))}\n" == ticks


@pytest.mark.parametrize(
    ("sizes", "options", "grid"),
    [
        (
            ("seq1f1b", 3, 2, 2),
            {"extra_warmup": 1},
            """
rank 0  F0.0 F0.1 F1.0 F1.1 B0.1 B0.0 B1.1 B1.0
rank 1  F0.0 F0.1 F1.0 F1.1 B0.1 B0.0 B1.1 B1.0
rank 2  F0.0 F0.1 F1.0 B0.1 F1.1 B0.0 B1.1 B1.0
""",
        ),
        (("seq1f1b", 1, 2, 2), {}, "\nrank 0  F0.0 F0.1 B0.1 B0.0 F1.0 F1.1 B1.1 B1.0\n"),
        (
            ("1f1b-i", 2, 2, 1),
            {"stages_per_rank": 3},
            """
rank 0  F0.0   F1.0   F0.0@2 F1.0@2 F0.0@4 F1.0@4 B0.0@4 B1.0@4 B0.0@2 B1.0@2 B0.0   B1.0
rank 1  F0.0   F1.0   F0.0@3 F1.0@3 F0.0@5 B0.0@5 F1.0@5 B1.0@5 B0.0@3 B1.0@3 B0.0   B1.0
""",
        ),
        (
            ("1f1b-i", 3, 3, 1),
            {"short_warmup": True},
            """
rank 0  F0.0   F1.0   F2.0   F0.0@3 F1.0@3 F2.0@3 B0.0@3 B1.0@3 B2.0@3 B0.0   B1.0   B2.0
rank 1  F0.0   F1.0   F2.0   F0.0@4 F1.0@4 B0.0@4 F2.0@4 B1.0@4 B2.0@4 B0.0   B1.0   B2.0
rank 2  F0.0   F1.0   F2.0   F0.0@5 B0.0@5 F1.0@5 B1.0@5 F2.0@5 B2.0@5 B0.0   B1.0   B2.0
""",
        ),
    ],
    ids=["extra warm-up", "one rank", "V=3", "short warm-up"],
)
def test_order_of_work_with_options(sizes, options, grid):
    assert draw_plan(_plan(*sizes, **options)) == grid.strip("\n")


def test_order_of_work_of_evaluation():
    plan = forward_plan(num_ranks=2, num_microbatches=2, num_chunks=2)
    assert draw_plan(plan) == "rank 0  F0.0 F0.1 F1.0 F1.1\nrank 1  F0.0 F0.1 F1.0 F1.1"


@pytest.mark.parametrize(
    ("module", "plan"),
    [
        ("generators.terapipe", _plan("terapipe", 2, 2, 2)),
        ("generators.seq1f1b", _plan("seq1f1b", 2, 2, 2)),
        ("generators.seq1f1b", _plan("seq1f1b", 1, 2, 2)),
        ("grid", _plan("seq1f1b", 2, 2, 2)),
        ("generators.zero_bubble", _plan("zb-h1", 2, 3, 1)),
        ("generators.forward", forward_plan(num_ranks=2, num_microbatches=2, num_chunks=2)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pictures_in_the_docstrings_are_true(module, plan):
    text = import_module(f"seq1f1b_jax.schedule.{module}").__doc__
    for row in draw_simulation(simulate(plan, COSTS)).splitlines():
        assert f"    {row.rstrip(' .')}" in text


def test_picture_of_the_lockstep_variant_is_true():
    drawing = draw_simulation(simulate(_plan("seq1f1b-lockstep", 2, 2, 2), COSTS))
    for row in drawing.splitlines():
        assert f"        {row}" in seq1f1b_lockstep.__doc__


def test_picture_of_interleaving_has_the_order_of_the_plan():
    text = import_module("seq1f1b_jax.schedule.generators.interleaved").__doc__
    rows = [line.split("  (")[0] for line in text.splitlines() if line.startswith("    rank")]
    assert parse_grid("\n".join(rows), name="1f1b-i") == _plan("1f1b-i", 2, 2, 1)


def test_course_of_time():
    drawing = """
rank 0  F0.0 F0.1 F1.0 .... .... B0.1----- F1.1 B0.0----- .... B1.1----- B1.0-----
rank 1  .... F0.0 F0.1 B0.1----- F1.0 B0.0----- F1.1 B1.1----- B1.0----- .... ....
"""
    assert draw_simulation(simulate(_plan("seq1f1b", 2, 2, 2), COSTS)) == drawing.strip("\n")


def test_rows_line_up_with_two_digit_labels_and_ranks():
    lines = draw_plan(_plan("1f1b", 11, 11, 1)).splitlines()
    assert lines[0].startswith("rank  0  F0.0  F1.0 ")
    assert lines[10].startswith("rank 10  F0.0  B0.0 ")
    assert len(set(map(len, lines))) == 1


def test_a_column_that_does_not_divide_the_times_is_refused():
    with pytest.raises(ValueError, match="column=2"):
        draw_simulation(simulate(_plan("1f1b", 1, 1, 1), COSTS), column=2)


def test_grid_without_actions_is_refused():
    with pytest.raises(ValueError, match="holds no action"):
        parse_grid("rank 0  .... ....\n", name="empty")


def test_long_plans_are_drawn_around_the_marked_cell():
    drawing = draw_marked(_plan("seq1f1b", 2, 16, 4), rank=1, index=60)
    assert ">B7.3<" in drawing.splitlines()[1]
    assert drawing.count("<") == 1
    assert drawing.splitlines()[-1] == "(actions 48 to 71 of 128)"
