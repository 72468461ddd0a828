"""The launcher with the real train.py: a process is killed, the run ends as if it had not been."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seq1f1b_jax.training.reports.metrics import read_metrics
from tests.launch.conftest import ROOT, clean_environment
from tests.quick_xla import QUICK_FLAGS
from tests.run.tiny import command_line

pytestmark = pytest.mark.slow


def text(folder):
    """What all runs of a test read, however the repository changes meanwhile."""
    path = folder / "text.txt"
    if not path.exists():
        draw = random.Random(0)
        path.write_text("".join(draw.choices("etaoin shrdlu", k=20_000)), encoding="utf-8")
    return path


def start(folder, *launcher, settings=()):
    # The first of data's two pipelines lies in process 0, the other in process 1.
    changes = {"mesh__data": 2, "data__microbatch_size": 2, "train__num_steps": 60,
               "train__eval_every": 10, "checkpoint__every": 5}  # fmt: skip
    arguments = command_line(folder, text(folder.parent), **changes)
    return subprocess.Popen(
        [sys.executable, "-m", "seq1f1b_jax.launch", "--processes", "2", *launcher,
         "--", "train.py", *arguments, *settings],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=clean_environment()
        | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_FLAGS},
    )  # fmt: skip


def losses(folder):
    path = folder / "metrics.jsonl"
    lines = read_metrics(path) if path.exists() else []
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def child(process, index):
    """Process id of a child by the number that the launcher gave it."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            words = (path / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if parent == process.pid and words[-2:] == [str(index).encode(), b""]:
            return int(path.name)
    return None


def wait_for_step(process, folder, step):
    deadline = time.monotonic() + 200
    while len(losses(folder)) <= step:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_checkpoint(process, folder):
    deadline = time.monotonic() + 200
    while not any((folder / "checkpoints").glob("[0-9]*[0-9]")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def finish(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def test_a_killed_process_is_mended_bit_for_bit(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    status, out, err = finish(start(whole))
    assert status == 0, err
    assert "[Gloo]" not in out + err
    process = start(cut, "--restarts", "1", "--log-dir", tmp_path / "logs")
    wait_for_checkpoint(process, cut)
    os.kill(child(process, 1), signal.SIGKILL)
    status, out, err = finish(process)
    assert status == 0, err
    assert "process 1 was killed by SIGKILL" in err and "killed after" not in err
    assert "process 1 is lost" in err
    assert "restart 1 of 1: process 1 was killed by SIGKILL (out of memory?)\n" in err
    assert f"continuing {cut} after step" in out
    assert len(losses(whole)) == 60
    assert losses(cut) == losses(whole)


def test_an_interrupt_saves_and_the_same_command_continues(tmp_path):
    folder = tmp_path / "run"
    process = start(folder)
    wait_for_step(process, folder, 2)
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert status == 0, err
    assert "the same command continues" in out
    done = len(losses(folder))
    assert 3 <= done < 60
    assert (folder / "checkpoints" / f"{done:06d}").is_dir()


def test_bad_input_is_not_repeated(tmp_path):
    process = start(tmp_path / "run", "--restarts", "3", settings=["--mesh.pipes", "2"])
    status, out, err = finish(process)
    assert status == 2 and out == ""
    assert "restart" not in err and err.count("did you mean '--mesh.pipe'") == 1
