"""The table of packings, its smallest rows."""

import json

import pytest

from benchmarks import packing
from benchmarks.common.least_room import fits, least_room
from benchmarks.common.shapes import SHAPES
from seq1f1b_jax.schedule import lower, make_plan
from seq1f1b_jax.schedule.lowering.arena import allocate, peak_load


def test_last_line_has_the_worst_of_the_rows(capsys, tmp_path):
    path = tmp_path / "packing.json"
    assert packing.main(["--chunks", "2", "--out", str(path)]) == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads(path.read_text()) == values
    rows = values["rows"]
    assert len(rows) == sum(name.endswith("seq1f1b_selective") for name in SHAPES)
    for name in ("arena", "cache"):
        assert min(row[f"{name}/bound"] for row in rows) >= 1
        assert values[f"{name}_over_bound"] == max(row[f"{name}/bound"] for row in rows)
    assert all(row["cache"] <= row["slots"] for row in rows)


def test_keys_and_values_of_split_backwards_go_first():
    (row, *_) = packing.measure([4], "seq-zb-h1")
    assert row["cache"] <= row["arena"]


def test_lifetimes_are_those_that_the_table_counts():
    plan = make_plan("seq-zb-h1", num_ranks=3, num_microbatches=4, num_chunks=2)
    table = lower(plan, (24, 8))
    assert peak_load(packing.residuals(table)) == table.arena_bound


def test_without_a_solver_nothing_is_proven(capsys, monkeypatch):
    monkeypatch.setattr(packing, "find_spec", lambda name: None)
    assert packing.main(["--prove", "1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install -e '.[packing]'" in error


def test_what_is_proven_to_be_the_least():
    """7b at 32,768 tokens, C=4, in units of 128: 496 are alive and no packing is below 512."""
    pytest.importorskip("ortools")
    lengths = (87, 66, 55, 48)
    plan = make_plan("seq1f1b", num_ranks=4, num_microbatches=9, num_chunks=4)
    table = lower(plan, lengths)
    values = packing.residuals(table, 8)
    assert len(values) == 8 * 4 < len(packing.residuals(table))
    assert (peak_load(values), allocate(values).total) == (496, 512)
    assert fits(values, 512, seconds=60) is True
    assert least_room(values, 496, 512, seconds=60) == 512
