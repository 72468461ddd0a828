"""The page: one file, safe whatever runs are called, replaced whole or not at all."""

import json
import os
import re
import stat

import pytest

from seq1f1b_jax.config import UserError
from seq1f1b_jax.report import write_report
from seq1f1b_jax.report.style import RUN_COLOURS
from tests.report.folders import (
    KILLED,
    PREDICTION,
    WHOLE,
    event,
    numbers,
    read_page,
    step,
    write_run,
)

EVIL = "</script><b>{{plotly}}&%{x}'\" 東京"
FULL = {"events": WHOLE, "prediction": PREDICTION | {"step_seconds": {"matmul": 0.3}}}


@pytest.fixture
def full(tmp_path):
    """Two runs with everything that a page shows."""
    runs = [
        write_run(tmp_path / "a", **FULL),
        write_run(tmp_path / "b", [step(0)], KILLED, chunks=4),
    ]
    timeline = [
        {"ph": "M", "name": "process_name", "pid": 1, "args": {"name": "measured"}},
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": 1, "args": {}},
        {"ph": "X", "name": "F0.0", "pid": 1, "tid": 1, "ts": 0, "dur": 5},
    ]
    (runs[0] / "trace.json").write_text(json.dumps({"traceEvents": timeline}))
    (runs[0] / "trace.html").write_text('<p class="x">it\'s a "timeline" &amp; more</p>')
    return runs


def test_a_page_is_one_file_with_one_copy_of_plotly_and_no_network(full):
    page = read_page(write_report(full))
    linked = [attrs for _, attrs in page.tags if {"src", "href", "data", "action"} & attrs.keys()]
    assert linked == []
    [policy] = [attrs["content"] for _, attrs in page.tags if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'; ") and "http" not in policy
    assert sum("plotly.js v" in script[:300] for script in page.scripts) == 1
    assert [tag for tag, _ in page.tags].count("h1") == 1


def test_all_sections_of_several_runs(full):
    page = read_page(write_report(full))
    assert list(page.charts) == ["training", "time", "progress", "memory", "step"]
    headings = [text for text in page.texts if text in (
        "Training", "Where the time went", "Steps over time", "Memory of a device",
        "Time of a step", "Timeline of a step", "Settings that differ", "Settings",
    )]  # fmt: skip
    assert len(headings) == 8
    assert "schedule.num_chunks" in page.texts
    [frame] = [attrs for tag, attrs in page.tags if tag == "iframe"]
    assert frame["srcdoc"] == '<p class="x">it\'s a "timeline" &amp; more</p>'
    assert frame["sandbox"] == "allow-scripts"


def test_a_page_of_metrics_alone_has_what_they_tell(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "config.yaml").unlink()
    page = read_page(write_report([folder]))
    assert list(page.charts) == ["training"]
    assert not {"Settings", "Timeline of a step", "Memory of a device"} & set(page.texts)


def test_the_numbers_are_those_of_the_metrics(tmp_path):
    page = read_page(write_report([write_run(tmp_path / "run", [step(0), step(1), step(2)])]))
    traces, _ = page.charts["training"]
    assert numbers(traces[0]["x"]) == [1, 2, 3] and numbers(traces[0]["y"]) == [5, 4.9, 4.8]
    assert traces[0]["line"]["color"] == RUN_COLOURS[0]


def test_names_of_runs_are_text_everywhere(tmp_path):
    folders = {EVIL: write_run(tmp_path / "a", ["noise", step(0)], WHOLE, prediction=PREDICTION),
               "\udcff\n": write_run(tmp_path / "b", chunks=4)}  # fmt: skip
    plain = {"a": tmp_path / "a", "b": tmp_path / "b"}
    page, usual = (read_page(write_report(each, tmp_path / "x.html")) for each in (folders, plain))
    # but for the number of scripts and tags nothing may depend on a name
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in usual.tags]
    assert page.charts.keys() == usual.charts.keys()
    assert f"Runs {EVIL}, \\udcff\\n" in page.texts
    note = "1 of the lines of metrics.jsonl are not what a run writes; left out"
    assert f"{EVIL}: {note}" in page.texts
    traces, _ = page.charts["training"]
    assert traces[0]["name"] == "&lt;/script&gt;&lt;b&gt;{{plotly}}&amp;%{x}'\" 東京"


def test_values_of_settings_are_text(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "config.yaml").write_text("data: {source: '<i>\\u0007'}\nmodel: {family: </td>}\n")
    text = write_report([folder]).read_text("utf-8")
    assert "<i>" not in text.partition("<body>")[2] and "&lt;/td&gt;" in text


def test_an_older_page_is_replaced_and_nothing_else_left(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "report.html").write_text("old")
    before = {path.name for path in folder.iterdir()}
    assert write_report([folder]) == folder / "report.html"
    assert {path.name for path in folder.iterdir()} == before
    assert (folder / "report.html").stat().st_size > 1_000_000


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run")
    (folder / "report.html").write_text("old")

    def full_disk(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
    with pytest.raises(UserError, match=r"report.html \(No space left on device\); name another"):
        write_report([folder])
    assert (folder / "report.html").read_text() == "old"


def test_a_link_is_replaced_and_not_followed(tmp_path):
    folder = write_run(tmp_path / "run")
    (tmp_path / "mine").write_text("mine")
    (folder / "report.html").symlink_to(tmp_path / "mine")
    write_report([folder])
    assert (tmp_path / "mine").read_text() == "mine"
    assert stat.S_ISREG(os.lstat(folder / "report.html").st_mode)


def test_one_folder_under_two_names_is_refused(tmp_path):
    write_run(tmp_path / "a")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UserError, match="b and .*a are one run; name it once"):
        write_report([tmp_path / "a", tmp_path / "b"])


def test_a_run_of_many_steps_makes_no_large_page(tmp_path):
    one = write_report([write_run(tmp_path / "one", [step(0)])]).stat().st_size
    lines = [step(n) for n in range(20_000)]
    events = [event(n, "step", step=n) for n in range(20_000)]
    many = write_report([write_run(tmp_path / "many", lines, events)]).stat().st_size
    assert many - one < 1_000_000


def test_the_page_is_no_larger_than_plotly_and_little_more(tmp_path):
    text = write_report([write_run(tmp_path / "run", **FULL)]).read_text("utf-8")
    script = max(re.findall(r"<script>(.*?)</script>", text, re.DOTALL), key=len)
    assert len(text) - len(script) < 100_000
