"""Ray Train on this machine: a process is killed, Ray starts the set again, the run resumes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.runs import ROOT, STEPS, arguments, assert_same_run, environment, losses

pytest.importorskip("ray.train.v2.jax", reason="needs pip install '.[ray]'")
pytestmark = pytest.mark.slow
SCRIPT = ROOT / "launch" / "ray_train.py"
PATIENCE_SECONDS = 900


@pytest.fixture
def driver(tmp_path):
    """Starts the script with a run of two processes over Gloo; what it says is in a file."""
    running = []

    def start(folder, *options, **changes):
        settings = {"data__source": ROOT / "README.md"}
        command = [sys.executable, SCRIPT, "--workers", "2", *options, "--"]
        with folder.with_suffix(".said").open("wb") as said:
            process = subprocess.Popen(
                [*command, *arguments(folder, **settings | changes)[1:]], cwd=tmp_path, stdout=said,
                stderr=subprocess.STDOUT, env=environment(),
            )  # fmt: skip
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # it ends what it has started of Ray
            process.wait(60)


def trainer_of(folder, index):
    """The train.py of one process of the run in a folder, wherever Ray has started it."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if str(folder) in words and words[-3:-1] == ["--distributed.process_id", str(index)]:
            return int(path.parent.name)
    return None


def said(folder):
    return folder.with_suffix(".said").read_text(errors="replace")


def test_a_killed_process_is_started_again_and_the_run_is_the_same(driver, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert driver(whole, "--restarts", "0").wait(PATIENCE_SECONDS) == 0, said(whole)
    process = driver(cut, "--restarts", "2", distributed__heartbeat_timeout=10)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(losses(cut)) <= STEPS // 2:
        assert process.poll() is None and time.monotonic() < deadline, said(cut)
        time.sleep(0.01)
    os.kill(trainer_of(cut, 1), signal.SIGKILL)
    assert process.wait(PATIENCE_SECONDS) == 0, said(cut)
    assert "process 1 was killed by SIGKILL" in said(cut)
    assert f"continuing {cut} after step" in said(cut)
    assert_same_run(cut, whole)


def test_bad_input_is_not_started_again(driver, tmp_path):
    folder = tmp_path / "refused"
    assert driver(folder, "--restarts", "2", mesh__virtual_devices=3).wait(PATIENCE_SECONDS) == 2
    told = [line for line in said(folder).splitlines() if "cannot be shared by 2 processes" in line]
    assert 1 <= len(told) <= 2, said(folder)  # Ray itself may tell equal lines once


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "--workers"),
        (["--workers", "two"], "'two'"),
        (["--workers", "0"], "--workers 0 --gpus 0 --restarts 3: use 1 or more workers"),
        (["--workers", "2", "--config", "x"], "--config x: unknown; arguments of train.py go"),
    ],
)
def test_bad_options_are_one_line(options, told):
    done = subprocess.run(
        [sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and told in done.stderr.splitlines()[0]
    assert len(done.stderr.splitlines()) == 1
