"""SLURM: what train.py is called with, and what becomes of its statuses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seq1f1b_jax.cli import parse
from seq1f1b_jax.distributed.exits import STOPPED

ROOT = Path(__file__).parents[2]
RECIPES, SBATCH = ROOT / "mesh_configs", ROOT / "launch" / "slurm.sbatch"
SRUN, TASK = (Path(__file__).with_name(name) for name in ("srun.py", "task.py"))
SCONTROL = '#!/bin/sh\necho "[\\"scontrol\\", \\"$1\\", \\"$2\\"]" >> calls.jsonl\n'


@pytest.fixture
def sbatch(tmp_path):
    """Runs the script with stand-ins for SLURM: (status, calls, errors)."""
    (tmp_path / "srun").symlink_to(SRUN)
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "task").symlink_to(TASK)
    for program in (SRUN, TASK, tmp_path / "scontrol"):
        program.chmod(0o755)

    def run(*arguments, tasks="0", **variables):
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "PYTHON": "task",
            "SLURM_CPUS_ON_NODE": "128", "TASKS": tasks, **variables,
        }  # fmt: skip
        done = subprocess.run(
            ["bash", SBATCH, *arguments], cwd=tmp_path, env=environment, capture_output=True,
            text=True, timeout=30, check=False,
        )  # fmt: skip
        calls = list(map(json.loads, (tmp_path / "calls.jsonl").read_text().splitlines()))
        return done.returncode, calls, done.stderr

    return run


def test_sbatch_is_a_bash_script_with_the_options_that_matter():
    subprocess.run(["bash", "-n", SBATCH], check=True, timeout=30)
    lines = SBATCH.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    wanted = {"--requeue", "--signal=TERM@120", "--ntasks-per-node=1", "--exclusive", "--mem=0"}
    assert wanted <= options
    body = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(not line.startswith("#SBATCH") for line in lines[body:])  # SLURM would not see it


def test_sbatch_passes_arguments_that_the_command_line_takes(sbatch):
    given = ["--config", "gpu8_2.7b_32k", "--train.output_dir", "a folder"]
    status, calls, err = sbatch(*given)
    assert (status, err) == (0, "")
    (step,) = calls
    assert step[:4] == ["srun", "--kill-on-bad-exit=1", "--label", "--cpus-per-task=128"]
    assert step[4:7] == ["task", "-u", "train.py"]
    invocation = parse(step[7:], recipes=RECIPES)
    assert invocation.typed[invocation.config.train.output_dir] == "a folder"
    assert invocation.config.distributed.stopped_status == STOPPED


@pytest.mark.parametrize(
    ("variables", "cpus"),
    [({"SLURM_NTASKS_PER_NODE": "8"}, 16),
     ({"SLURM_NTASKS_PER_NODE": "8", "SLURM_CPUS_PER_TASK": "4"}, 4)],
)  # fmt: skip
def test_sbatch_deals_out_the_cpus_of_a_node(sbatch, variables, cpus):
    _, calls, _ = sbatch(**variables)
    assert f"--cpus-per-task={cpus}" in calls[0]


@pytest.mark.parametrize(
    ("tasks", "status"),
    [("2,waits", 143), ("2,deaf", 137), ("76,lingers-2", 76), ("2,lingers-77", 77), ("0,0", 0)],
)
def test_the_stand_in_ends_as_srun_does(tasks, status, tmp_path):
    """So that the tests below have something to mend."""
    done = subprocess.run(
        [sys.executable, SRUN, "--kill-on-bad-exit=1", sys.executable, TASK], cwd=tmp_path,
        env=os.environ | {"TASKS": tasks}, capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == status


@pytest.mark.parametrize(
    ("tasks", "steps", "ended"),
    [
        ("0,0", 1, 0),
        ("2,2", 1, 2),
        ("2,waits", 1, 2),  # srun itself ends with 143 then
        ("2,deaf", 1, 2),  # and with 137 here
        ("76,lingers-2", 1, 2),  # one that lost a refused process may end before it
        ("1,waits", 1, 1),
        ("75,waits;0,0", 2, 0),
        ("76,late-76;SIGKILL,waits;0,0", 3, 0),
        ("75,waits;2,waits", 2, 2),
        ("SIGKILL,lingers-1;0,0", 2, 0),
        ("75;75;75", 3, 75),
    ],
)
def test_sbatch_starts_again_what_that_can_mend(sbatch, tasks, steps, ended):
    status, calls, err = sbatch(tasks=tasks, RESTARTS="2")
    assert status == ended, err
    assert [call[0] for call in calls] == ["srun"] * steps
    assert ("used up" in err) == (ended == 75)
    assert re.search(r"srun: error: gpu\d: task \d: ", err) or tasks == "0,0"


@pytest.mark.parametrize(
    "tasks", ["77,77", "77,waits", "SIGTERM,waits", "75,waits;77,late-77"]
)
def test_sbatch_goes_back_into_the_queue_when_it_was_stopped(sbatch, tasks):
    ended, calls, err = sbatch(tasks=tasks)
    assert ended == 77
    assert calls[-1] == ["scontrol", "requeue", "7"] and "back into the queue" in err
