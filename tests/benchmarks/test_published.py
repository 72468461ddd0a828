"""The paper's tables beside the figures of the planner: claims hold, and habits count."""

import json

from benchmarks import published


def figures(capsys, *arguments):
    assert published.main(list(arguments)) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_what_is_claimed_of_the_tables_holds(capsys):
    found = figures(capsys)
    assert found["cells"] == 24 and found["oom_wrong"] == 0
    assert found["max_ratio_error"] <= 0.05
    assert found["max_memory_ratio_error"] <= 0.07
    assert len(found["throughput"]) == 16


def test_a_habit_that_is_left_out_shows(capsys):
    whole, without = figures(capsys), figures(capsys, "--off", "kv_twice", "reserve")
    assert without["max_memory_ratio_error"] > whole["max_memory_ratio_error"]
    for row, other in zip(whole["memory"], without["memory"], strict=True):
        assert other["predicted"] < row["predicted"]
