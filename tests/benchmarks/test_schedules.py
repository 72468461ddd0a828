"""The table of all schedules on tiny sizes."""

import json
from fractions import Fraction

import pytest

from benchmarks import schedules
from seq1f1b_jax.schedule import SCHEDULES


def test_last_line_covers_every_schedule(capsys, tmp_path):
    path = tmp_path / "schedules.json"
    words = ["--ranks", "2", "3", "--chunks", "1", "2", "--ratios", "2.5", "--out", str(path)]
    assert schedules.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    values = json.loads(lines[-1])
    assert set(values["schedules"]) == set(SCHEDULES)
    assert values["num_simulated"] == 2 * len(SCHEDULES) == len(lines) - 4  # title, heads, JSON
    assert values["max_executor_over_asynchronous"] == 1.0
    assert values["max_bubble_over_formula"] == 1.0
    assert json.loads(path.read_text()) == values


@pytest.mark.parametrize(
    ("name", "bubble", "peak"),
    [
        ("1f1b", 3 / 11, 4),  # (P-1)/(P-1+M), P
        ("gpipe", 3 / 11, 8),  # M
        ("1f1b-lockstep", 3 / 11, 7),  # 2P-1
        ("1f1b-i", 1.5 / 9.5, 11 / 2),  # ((V-1)P + 2(P-1) + 1)/V
        ("zb-h1", 3 / 27, 4),  # (P-1)(F+B-2W) of 8*3 and that, P
    ],
)
def test_figures_of_whole_sequences(name, bubble, peak):
    rows = list(schedules.measure([4], [1], [Fraction(2)]))
    (row,) = (row for row in rows if row["schedule"] == name)
    assert row["bubble"] == pytest.approx(bubble, rel=1e-12)
    assert row["peak"] == peak
    assert row["executor/asynchronous"] == 1


def test_no_schedule_stands_under_two_names():
    assert set(schedules.schedules(1)) | set(schedules.schedules(4)) == set(SCHEDULES)
    assert not set(schedules.schedules(1)) & set(schedules.schedules(4))
