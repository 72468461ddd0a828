"""`plan sweep`: what is varied, what is refused, and one that runs."""

import csv

import pytest

from seq1f1b_jax.config import Config, UserError
from seq1f1b_jax.training.sweep.command import configurations, main, parse_options
from tests.run.tiny import SETTINGS

TINY = [f"--{name}={value}" for name, value in SETTINGS.items()]


def test_every_combination_is_tried():
    options, rest = parse_options(
        ["--chunks", "1,4", "--recompute", "none,full", "--microbatches", "2", "--mesh.pipe", "2"]
    )
    assert rest == ["--mesh.pipe", "2"]
    found = configurations(Config(), options)
    tried = [(c.schedule.num_chunks, c.executor.recompute) for c in found]
    assert tried == [(1, "none"), (1, "full"), (4, "none"), (4, "full")]
    assert {c.schedule.num_microbatches for c in found} == {2}


REFUSED = {
    "--chunks 0": "whole numbers above 0",
    "--chunks one": "whole numbers above 0",
    "--recompute some": "--recompute some: use none",
    "--steps 0": "--steps 0: must be at least 1",
    "--to out.txt": "end the name in .csv",
    "--to missing/out.csv": "a folder that exists",
    "--draw out.gif": "ends in .svg",
    "--no.such 1": "unknown setting",
    "evaluate": "takes the settings of train.py, and none of its commands",
    "--chunks 9999999": "num_chunks",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_bad_input_is_one_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split(), {}) == 2
    error = capsys.readouterr().err
    assert REFUSED[arguments] in error and error.count("\n") == 1


def test_too_many_are_refused():
    options, _ = parse_options(["--chunks", ",".join(map(str, range(1, 202)))])
    with pytest.raises(UserError, match="of at most 200"):
        configurations(Config(), options)


def test_a_sweep_says_what_it_predicted_and_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    varied = ["--chunks", "1,2", "--schedules", "seq1f1b,gpipe", "--steps", "1"]
    assert main([*varied, "--to", "s.csv", "--draw", "s.svg", *TINY], {}) == 0
    with open("s.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["schedule"], row["chunks"]) for row in rows] == [
        ("seq1f1b", "1"), ("seq1f1b", "2"), ("gpipe", "1"), ("gpipe", "2")
    ]
    assert "num_chunks=2 does not fit gpipe" in rows[3]["problem"]
    for row in rows[:3]:
        assert float(row["measured_seconds"]) > 0 and float(row["predicted_seconds"]) > 0
        assert int(row["predicted_bytes"]) > 0 and int(row["compiled_bytes"]) > 0
    assert (tmp_path / "s.svg").stat().st_size > 5000
    assert "measured" in capsys.readouterr().out
