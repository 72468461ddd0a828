"""Whoever reads what a run prints may leave: the run goes on to its last step."""

import errno
import io
import json
import os
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest

import train
from tests.run.tiny import checkpoint_steps, command_line, losses
from tests.training.test_stdout import Broken

ROOT = Path(__file__).parents[2]


def run_into(stream, *arguments):
    """The command line with its output to `stream`; its status and standard error."""
    err = io.StringIO()
    with mock.patch.dict(os.environ), redirect_stdout(stream), redirect_stderr(err):
        status = train.main([str(argument) for argument in arguments])
    return status, err.getvalue()


@pytest.mark.parametrize(
    ("number", "after"),
    [
        (errno.EPIPE, 0),
        pytest.param(errno.ENOSPC, 4, marks=pytest.mark.slow),
        pytest.param(errno.EIO, 14, marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_without_output(number, after, source, tmp_path):
    """From its first line on, while it trains, or in its sample, when its events have ended."""
    arguments = command_line(tmp_path / "run", source, train__sample_tokens=8)
    status, err = run_into(Broken(number, after=after), *arguments)
    assert status == 0, err
    assert err.count("standard output is gone") == 1 and err.count("\n") == 1
    assert len(losses(tmp_path / "run")) == 6 and checkpoint_steps(tmp_path / "run") == [2, 4, 6]
    events = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    notes = [event["note"] for event in map(json.loads, events) if "note" in event]
    assert len(notes) == (after < 9) and all(note in err for note in notes)


def test_generate_ends_when_nobody_reads(finished, source):
    class Counting(Broken):
        flushes = 0

        def flush(self):
            Counting.flushes += 1

    arguments = command_line(finished, source)
    status, err = run_into(
        Counting(errno.EPIPE, after=3), "generate", *arguments, "--num_tokens=24", "--prompt=a"
    )
    assert (status, err) == (0, "")
    assert 0 < Counting.flushes < 12


@pytest.mark.parametrize(
    ("number", "outcome"), [(errno.EPIPE, (0, "")), (errno.ENOSPC, (2, "cannot write standard"))]
)
def test_evaluate_has_its_result_nowhere_else(number, outcome, finished, source):
    status, err = run_into(Broken(number), "evaluate", *command_line(finished, source))
    said = [line for line in err.splitlines() if not line.startswith("compiling the evaluation")]
    assert status == outcome[0] and outcome[1] in err and len(said) == bool(outcome[1])


def test_a_pipe_to_head_in_a_shell(source, tmp_path):
    arguments = command_line(tmp_path / "run", source, train__compile_cache="off")
    command = shlex.join([sys.executable, "train.py", *arguments])
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -n 3; echo ${{PIPESTATUS[0]}}"], cwd=ROOT,
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "0" and len(done.stdout.splitlines()) == 4, done
    assert done.stderr.count("standard output is gone (Broken pipe)") == 1, done.stderr
    assert done.stderr.count("\n") == 1
    assert len(losses(tmp_path / "run")) == 6 and checkpoint_steps(tmp_path / "run") == [2, 4, 6]
