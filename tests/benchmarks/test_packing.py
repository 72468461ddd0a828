"""The table of packings, its smallest rows."""

import json

from benchmarks import packing
from benchmarks.common.shapes import SHAPES


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
