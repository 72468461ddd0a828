"""Plans in files: written and read back, and what a user may write by hand or by mistake."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq1f1b_jax.schedule import (
    SCHEDULES,
    Exchange,
    PlanError,
    draw_plan,
    draw_table,
    forward_plan,
    lower,
    make_plan,
)
from seq1f1b_jax.schedule.files.plan_file import read_plan, write_plan
from seq1f1b_jax.schedule.files.plan_rows import MAX_BYTES

SIZES = [(1, 1, 1), (2, 3, 1), (3, 2, 2), (4, 3, 3), (5, 2, 1)]
CASES = [
    (name, sizes)
    for name, sizes in product(SCHEDULES, SIZES)
    if sizes[2] == 1 or SCHEDULES[name].chunked_name is None
]
GRID = "rank 0  F0.0 F1.0 B0.0 B1.0\nrank 1  F0.0 B0.0 F1.0 B1.0\n"
TABLE = "rank 0,F0.0,F1.0,B0.0,B1.0\nrank 1,F0.0,B0.0,F1.0,B1.0\n"
PLAN = make_plan("1f1b", num_ranks=2, num_microbatches=2, num_chunks=1)


def plan_of(name, sizes):
    stages, microbatches, chunks = sizes
    return make_plan(name, num_ranks=stages, num_microbatches=microbatches, num_chunks=chunks)


def read(folder, content, name="mine.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_plan(path)


@pytest.mark.parametrize("suffix", [".csv", ".txt", ""])
@pytest.mark.parametrize(("name", "sizes"), CASES, ids=str)
def test_every_schedule_comes_back_equal(tmp_path, name, sizes, suffix):
    plan = plan_of(name, sizes)
    write_plan(plan, tmp_path / f"plan{suffix}")
    assert read_plan(tmp_path / f"plan{suffix}") == plan


@pytest.mark.parametrize("suffix", [".csv", ".txt"])
def test_an_evaluation_plan_comes_back_equal(tmp_path, suffix):
    plan = forward_plan(num_ranks=3, num_microbatches=2, num_chunks=2)
    write_plan(plan, tmp_path / f"plan{suffix}")
    assert read_plan(tmp_path / f"plan{suffix}") == plan


def test_a_table_is_one_row_per_rank_under_its_sizes(tmp_path):
    write_plan(PLAN, tmp_path / "plan.csv")
    assert (
        tmp_path / "plan.csv"
    ).read_text() == f"# 1f1b ranks=2 microbatches=2 chunks=1 exchange=parity\n{TABLE}"


@pytest.mark.parametrize(
    "content",
    [
        TABLE,
        "\ufeff" + TABLE,
        TABLE.replace("\n", "\r\n"),
        TABLE.replace("\n", "\r"),
        TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        TABLE.replace("\n", ",,,\n"),
        TABLE.replace("rank 0,", "").replace("rank 1,", ""),
        TABLE.replace("rank 1,", "Rank 1: ,,....,.,-----,"),
        TABLE.replace("rank 0", "rank,0"),
        '"# 1f1b ranks=2 microbatches=2 chunks=1",,,,\n' + TABLE,
        '"# mine, with ""quotes"" ",,\n\n,,,,\n' + TABLE + "# the end\n",
        TABLE.replace("F0.0", '"F0.0"').replace("B1.0", " B1.0 "),
        TABLE.removesuffix("\n"),
    ],
    ids=[
        *("plain", "byte order mark", "CRLF", "CR", "semicolons", "tabs", "empty columns"),
        *("no labels", "waiting", "label in two cells", "quoted sizes", "comments", "quoted cells"),
        "no last line break",
    ],
)
def test_tables_of_spreadsheets(tmp_path, content):
    assert replace(read(tmp_path, content), name="1f1b") == PLAN


@pytest.mark.parametrize(
    "content",
    [
        GRID,
        f"# by hand\n\n{GRID}",
        GRID.replace("rank 0  ", "").replace("rank 1  ", ""),
        GRID.replace("F1.0 ", ".... F1.0 .... "),
        GRID.replace("B0.0", "B0.0-----"),
        GRID.replace("B0.0", ">B0.0<"),
        "1f1b ranks=2 microbatches=2 chunks=1\n" + GRID,
        draw_table(lower(PLAN, [8])),
        PLAN.text(),
    ],
    ids=["grid", "comment", "no labels", "dots", "dashes", "mark", "sizes", "ticks", "text"],
)
def test_texts(tmp_path, content):
    assert replace(read(tmp_path, content, "mine.txt"), name="1f1b") == PLAN


def test_a_plan_without_sizes_is_named_after_its_file(tmp_path):
    assert read(tmp_path, TABLE, "my best plan.csv").name == "my-best-plan"


def test_stages_beyond_the_ranks_make_a_ring_and_exchange_in_lockstep(tmp_path):
    plan = plan_of("1f1b-i", (2, 2, 1))
    assert replace(read(tmp_path, draw_plan(plan), "grid"), name="1f1b-i") == plan


def test_sizes_keep_an_exchange_that_letters_do_not_show(tmp_path):
    plan = plan_of("1f1b-lockstep", (2, 2, 1))
    write_plan(plan, tmp_path / "a.csv")
    assert read_plan(tmp_path / "a.csv").exchange is Exchange.LOCKSTEP


def test_a_tick_table_with_two_actions_in_a_cell_comes_back(tmp_path):
    plan = plan_of("zb-h1", (2, 3, 1))
    grid = draw_table(lower(plan, [8]))
    assert "+W" in grid
    assert replace(read(tmp_path, grid, "grid.txt"), name="zb-h1") == plan


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_waiting_anywhere_changes_nothing(tmp_path_factory, data):
    name, sizes = data.draw(st.sampled_from(CASES))
    plan = plan_of(name, sizes)
    waiting = st.lists(st.sampled_from(["", ".", "....", " "]), max_size=2)
    lines = []
    for rank, row in enumerate(plan.ranks):
        cells = [f"rank {rank}"]
        for action in row:
            cells += [*data.draw(waiting), action.text(rank)]
        lines.append(",".join(cells))
    header = "# " + plan.text().split("\n")[0]
    content = data.draw(st.sampled_from(["\n", "\r\n"])).join([header, *lines])
    assert read(tmp_path_factory.mktemp("plan"), content) == plan


@pytest.mark.parametrize(
    ("content", "name", "reported"),
    [
        ("", "a.csv", "a.csv holds no action"),
        (" \n\n", "a.txt", "a.txt holds no action"),
        ("rank 0\nrank 1\n", "a.csv", "holds no action"),
        (TABLE.replace("B1.0", "B1"), "a.csv", "a.csv, line 1, column 5: action 'B1' on rank 0"),
        (TABLE.replace(",F1.0", ",,F1.O"), "a.csv", "line 1, column 4: action 'F1.O' on rank 0"),
        (f"# a\n{GRID}".replace("B1.0", "B-1.0"), "a.txt", "a.txt, line 2, column 24: action 'B-1"),
        (f"schedule\n{GRID}", "a.txt", "line 1, column 1: action 'schedule'"),
        (TABLE.replace("rank 1", "rank 2"), "a.csv", "line 2: rank 2 is where rank 1 belongs"),
        (GRID + GRID, "a.txt", "line 3: rank 0 is where rank 2 belongs"),
        (f"# a ranks=2\n{TABLE}", "a.csv", "line 1: plan header 'a ranks=2' must read"),
        (f"# {PLAN.text()}\nx ranks=3", "a.txt", "line 4: 'x ranks=3' comes after other rows"),
        (f"# a ranks=3 microbatches=2 chunks=1\n{TABLE}", "a.csv", "num_ranks=3 has 2 rows"),
        (b"\xff\xfeF\x000\x00", "a.csv", "not UTF-8 text (byte 0xff at 0)"),
        (TABLE.replace("F0.0", '"F0.0', 1), "a.csv", "line 2: unexpected end of data"),
        (TABLE.replace("F0.0", "F0.0@999999998", 1), "a.csv", "1000000000 stages and holds 8"),
        (
            f"# a ranks=2 microbatches=1 chunks=1 stages_per_rank=9\n{TABLE}",
            "a.csv",
            "18 stages and holds 8",
        ),
        (b"x" * (MAX_BYTES + 1), "a.csv", f"larger than {MAX_BYTES} bytes"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) and " " in value else "",
)
def test_what_cannot_be_read_is_named_by_its_place(tmp_path, content, name, reported):
    with pytest.raises(ValueError) as caught:
        read(tmp_path, content, name)
    assert reported in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "name", "reported"),
    [
        (TABLE.replace("F0.0,B0.0", "B0.0,,F0.0"), "a.csv", "line 2, column 2: plan a, rank 1"),
        (f"#\n{GRID}".replace("B0.0 F1.0", "B0.0"), "a.txt", "end of line 3: plan a, rank 1"),
        (TABLE.replace("B1.0", "B0.0"), "a.csv", "line 1, column 5: plan a, rank 0, action 3"),
        (
            f"# a ranks=2 microbatches=3 chunks=1\n{TABLE}",
            "a.csv",
            "end of line 2: plan a, rank 0",
        ),
        (TABLE.replace("F0.0,", "F0.0@3,", 1), "a.csv", "line 1, column 2: plan a, rank 0"),
    ],
    ids=["order", "missing", "twice", "sizes", "stage"],
)
def test_a_plan_that_cannot_run_is_drawn_at_its_place(tmp_path, content, name, reported):
    with pytest.raises(PlanError) as caught:
        read(tmp_path, content, name)
    message, *grid = str(caught.value).splitlines()
    assert message.startswith(str(tmp_path / name))
    assert reported in message
    assert grid[0].startswith("rank 0") and any(">" in row and "<" in row for row in grid)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="cannot read plan file .*gone.csv: No such file"):
        read_plan(tmp_path / "gone.csv")
    with pytest.raises(ValueError, match="cannot read plan file"):
        read_plan(tmp_path)
    with pytest.raises(ValueError, match="cannot write plan file .*plan.csv: No such file"):
        write_plan(PLAN, tmp_path / "gone" / "plan.csv")
