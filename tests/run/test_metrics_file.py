"""What happens to `metrics.jsonl` happens to no step: full disk, foreign bytes, no checkpoints."""

import errno
import os
import shutil

import pytest

from seq1f1b_jax.host.files import LineFile
from seq1f1b_jax.training.reports.metrics import read_metrics
from tests.run.test_bad_input import assert_one_line
from tests.run.tiny import checkpoint_steps, command_line, copy_until, losses, run


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", pytest.param("events.jsonl", marks=pytest.mark.slow)]
)
def test_a_disk_that_is_full_for_a_while_costs_nothing(
    name, finished, source, tmp_path, monkeypatch
):
    real, failures = LineFile._write, []

    def write(self, line):
        if self._path.name == name and b'"step": 2' in line and not failures:
            failures.append(line)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, line)

    monkeypatch.setattr(LineFile, "_write", write)
    outcome = run(*command_line(tmp_path / "run", source))
    assert outcome.status == 0 and len(failures) == 1
    told = f"note: cannot write {tmp_path}/run/{name} (No space left on device); the run continues"
    assert outcome.out.count(told) == 1 == outcome.out.count("cannot write")
    assert losses(tmp_path / "run") == losses(finished)
    lines = (tmp_path / "run" / name).read_text().splitlines(keepends=True)
    assert failures[0].decode() in lines


def test_foreign_lines_are_kept_beside_and_the_run_continues(finished, source, tmp_path):
    folder = copy_until(finished, tmp_path / "run", 4)
    path = folder / "metrics.jsonl"
    first, *rest = path.read_bytes().splitlines(keepends=True)
    bad = [b"\xff\xfe\0\0\n", b"[" * 100_000 + b"\n", b'{"loss": 1.0}\n', b'{"step": 1, "lo\n']
    path.write_bytes(b"".join([first, *bad, *rest, b'{"step": 6, "los']))
    outcome = run(*command_line(folder, source))
    assert outcome.status == 0, outcome.err
    assert outcome.out.count(f"note: {path} had 4 lines that no run wrote, now kept in") == 1
    assert (folder / "metrics.jsonl.bad").read_bytes() == b"".join(bad)
    assert losses(folder) == losses(finished)


def test_metrics_without_their_checkpoints_are_kept(finished, source, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    outcome = run(*command_line(folder, source))
    assert outcome.status == 0, outcome.err
    told = "has no checkpoint, so the run starts over; the metrics of 6 steps are kept"
    assert outcome.out.count(f"{told} in metrics.jsonl.1") == 1
    assert read_metrics(folder / "metrics.jsonl.1") == read_metrics(finished / "metrics.jsonl")
    assert losses(folder) == losses(finished) and checkpoint_steps(folder) == [2, 4, 6]


@pytest.mark.parametrize("name", ["running.lock", "events.jsonl", "metrics.jsonl"])
def test_a_link_in_the_place_of_a_file_is_refused(name, source, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run" / name).symlink_to(tmp_path / "mine")
    outcome = run(*command_line(tmp_path / "run", source))
    assert_one_line(outcome, [f"run/{name} is a link", "move it away"])
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_folder_that_is_a_link_is_the_folder_of_a_run(source, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "run").symlink_to("far")
    assert run(*command_line(tmp_path / "run", source)).status == 0
    assert len(losses(tmp_path / "far")) == 6
