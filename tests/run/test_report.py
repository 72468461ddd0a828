"""The page of a run that took place: what training leaves behind is what the page reads."""

import json
import shutil

import pytest

from seq1f1b_jax.report.facts import facts
from seq1f1b_jax.report.predicted_figures import memory_parts
from seq1f1b_jax.report.run import read_run
from seq1f1b_jax.training.preview.record import compiled_bytes, peak_bytes
from tests.report.folders import read_page
from tests.run.tiny import command_line, losses, run


class Program:
    """A compiled program; what it aliases is counted as an argument already."""

    argument_size_in_bytes, temp_size_in_bytes = 100, 30
    output_size_in_bytes, alias_size_in_bytes = 90, 80

    def __init__(self, *, says):
        self.memory_analysis = lambda: self if says else None


class Device:
    def __init__(self, stats):
        self.memory_stats = lambda: stats


class Mesh:
    def __init__(self, *stats):
        self.local_devices = [Device(each) for each in stats]


def test_a_finished_run_is_read_without_a_note(finished, first_run):
    told = read_run(finished, "it")
    assert told.notes == ()
    assert told.curve("loss").value.tolist() == list(losses(finished).values())
    rows = facts(told)
    assert rows["steps"] == "6 of 6" and rows["restarts"] == rows["lost time"] == "none"
    assert rows["tokens"] == f"{6 * 128:,}"
    assert rows["mesh"] == "2 x virtual CPU device; pipe 2, data 1, tensor 1"
    assert rows["data"].endswith("sequences of 32 tokens, 128 in a step")
    header = first_run[1].out
    assert f"{told.prediction.num_params:,} parameters" in header
    assert f"bubble    {rows['bubble'].replace('% predicted', ' %').replace(' %', '%')}" in header


def test_the_prediction_is_that_of_the_header_and_near_what_was_compiled(finished):
    told = read_run(finished, "it")
    parts = memory_parts(told)
    assert list(parts) == ["predicted", "compiled"]  # CPU devices report no peak
    predicted, compiled = (sum(parts[kind].values()) for kind in parts)
    assert told.prediction.total_bytes == predicted
    assert 0.5 < predicted / compiled < 2  # tiny, hardly optimized: not a measure of the model
    # the batch is an argument too, and the update's temporaries are not predicted
    arguments = told.memory["arguments"]
    assert told.prediction.state_bytes < arguments < 1.1 * told.prediction.state_bytes + 4096


def test_the_page_of_a_run(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    outcome = run("report", folder)
    assert (outcome.status, outcome.err) == (0, "")
    page = read_page(folder / "report.html")
    assert list(page.charts) == ["training", "time", "progress", "memory", "step"]


def test_a_resumed_run_has_the_prediction_of_its_newest_start(finished, source, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    changed = {"train__num_steps": 7, "mesh__pipe": 1}
    assert run(*command_line(folder, source, **changed)).status == 0
    told = read_run(folder, "it")
    assert told.prediction.num_devices == 1
    assert json.loads((folder / "prediction.json").read_text())["version"] == 1
    assert facts(told)["restarts"] == "1, 0 of them after a kill"


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (Program(says=True), {"arguments": 100, "temporaries": 40}),
        (Program(says=False), {}),
        (lambda state: state, {}),  # several programs, one for each cut
    ],
)
def test_compiled_bytes_are_arguments_and_all_else(step, told):
    assert compiled_bytes(step) == told


@pytest.mark.parametrize(
    ("stats", "told"),
    [
        ([None, None], {}),
        ([{"bytes_in_use": 5}], {}),
        ([{"peak_bytes_in_use": 5}, {"peak_bytes_in_use": 7}], {"peak": 7}),
    ],
)
def test_the_peak_is_that_of_the_fullest_device_that_reports_one(stats, told):
    assert peak_bytes(Mesh(*stats)) == told
