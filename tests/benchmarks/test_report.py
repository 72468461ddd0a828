"""Tables, the machine and the last line of JSON."""

import json

from benchmarks.common import report


def test_table_aligns_columns_and_leaves_missing_fields_blank():
    lines = report.table([{"C": 1, "megabytes": 2.5}, {"C": 16}]).splitlines()
    assert lines == ["C   megabytes", "1   2.500", "16"]


def test_small_numbers_keep_their_digits():
    assert "0.0001234" in report.table([{"seconds": 0.0001234}])


def test_median_and_spread_of_an_outlier():
    assert report.median_and_spread([2.0, 1.0, 9.0]) == (2.0, 4.0)


def test_last_line_is_json_with_values_and_machine(capsys, tmp_path):
    report.finish({"ratio": 0.5}, path=tmp_path / "out.json")
    last = capsys.readouterr().out.splitlines()[-1]
    values = json.loads(last)
    assert values["ratio"] == 0.5
    assert {"cpu_model", "cores", "jax", "commit"} <= set(values["machine"])
    assert json.loads((tmp_path / "out.json").read_text()) == values
