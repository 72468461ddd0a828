"""SLURM and Kubernetes: what train.py is called with, what becomes of its statuses, who is who."""

import json
import os
import signal
import subprocess
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml

from seq1f1b_jax.cli import parse
from seq1f1b_jax.config import DistributedConfig
from seq1f1b_jax.config_checks import validate
from seq1f1b_jax.distributed import Processes, find_processes

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "mesh_configs"
SBATCH, JOBSET = ROOT / "launch" / "slurm.sbatch", ROOT / "launch" / "jobset.yaml"

STAND_IN = """#!/usr/bin/env python3
import json, os, sys
with open("calls.jsonl", "a") as calls:
    calls.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
if sys.argv[1:2] == ["show"]:
    print("JobId=7 JobName=x\\n   StartTime=2026-01-01T00:00:00 EndTime=" + os.environ["END_TIME"])
if os.path.basename(sys.argv[0]) == "srun":
    statuses = os.environ["STATUSES"].split()
    sys.exit(int(statuses[sum(1 for _ in open("calls.jsonl")) - 1]))
"""


@pytest.fixture
def sbatch(tmp_path):
    """Runs the script with stand-ins for SLURM: (status, calls, errors)."""
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)

    def run(*arguments, statuses="0", minutes=600.0, **variables):
        end = (datetime.now() + timedelta(minutes=minutes)).isoformat(timespec="seconds")
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "STATUSES": statuses,
            "END_TIME": end, **variables,
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
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert {"--requeue", "--signal=TERM@120", "--ntasks-per-node=1"} <= set(options)
    body = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(not line.startswith("#SBATCH") for line in lines[body:])  # SLURM would not see it


def test_sbatch_passes_arguments_that_the_command_line_takes(sbatch):
    given = ["--config", "gpu8_2.7b_32k", "--train.output_dir", "a folder"]
    status, calls, err = sbatch(*given, PYTHON="python3.11")
    assert (status, err) == (0, "")
    step, _ = calls
    assert step[:3] == ["srun", "--kill-on-bad-exit=1", "--label"]
    assert step[3:6] == ["python3.11", "-u", "train.py"]
    invocation = parse(step[6:], recipes=RECIPES)
    assert invocation.typed[invocation.config.train.output_dir] == "a folder"


@pytest.mark.parametrize(
    ("statuses", "steps", "ended"),
    [("0", 1, 0), ("2", 1, 2), ("1", 1, 1), ("75 0", 2, 0), ("76 137 0", 3, 0), ("75 2", 2, 2),
     ("75 75 75", 3, 75)],
)  # fmt: skip
def test_sbatch_starts_again_what_that_can_mend(sbatch, statuses, steps, ended):
    status, calls, err = sbatch(statuses=statuses, RESTARTS="2")
    assert status == ended
    assert [call[0] for call in calls].count("srun") == steps
    assert ("used up" in err) == (ended == 75)


@pytest.mark.parametrize(
    ("minutes", "statuses", "requeued"),
    [(1, "0", True), (600, "0", False), (1, "2", False)],
)
def test_sbatch_goes_back_into_the_queue_when_time_is_up(sbatch, minutes, statuses, requeued):
    _, calls, _ = sbatch(minutes=minutes, statuses=statuses)
    assert (["scontrol", "requeue", "7"] in calls) == requeued


def test_sbatch_without_a_limit_ends(sbatch):
    status, calls, _ = sbatch(END_TIME="Unknown")
    assert status == 0 and ["scontrol", "requeue", "7"] not in calls


# What srun sets in each task, as SLURM 23.11 does; the rest of its variables decide nothing.
SLURM = {
    "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "gpu[007-010]", "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "8", "SLURM_NNODES": "1", "SLURM_STEP_TASKS_PER_NODE": "8",
}  # fmt: skip


def slurm(nodes, names, tasks, index, local):
    step = {
        "SLURM_STEP_NODELIST": names, "SLURM_STEP_NUM_NODES": nodes, "SLURM_STEP_NUM_TASKS": tasks,
        "SLURM_PROCID": index, "SLURM_LOCALID": local, "SLURM_NODEID": index - local,
    }  # fmt: skip
    return SLURM | {name: str(value) for name, value in step.items()}


def open_mpi(size, index, local_size, local):
    return {
        "OMPI_COMM_WORLD_SIZE": str(size), "OMPI_COMM_WORLD_RANK": str(index),
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(local_size), "OMPI_COMM_WORLD_LOCAL_RANK": str(local),
        "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    }  # fmt: skip


MPI_PORT = 61440 + (1531576320 >> 12) % 4096
CASES = {
    "one node of eight tasks": (
        slurm(1, "gpu007", 8, 5, 5), Processes(8, 5, "gpu007:62055", 5, "SLURM")
    ),
    "two nodes of one task": (
        slurm(2, "gpu[007,010]", 2, 1, 0), Processes(2, 1, "gpu007:62055", None, "SLURM")
    ),
    "two nodes of four tasks": (
        slurm(2, "gpu[009-010]", 8, 6, 2), Processes(8, 6, "gpu009:62055", 2, "SLURM")
    ),
    "one task": (slurm(1, "gpu007", 1, 0, 0), Processes()),
    "a batch script without srun": (SLURM | {"SLURM_PROCID": "0"}, Processes()),
    "mpirun on two hosts": (
        open_mpi(2, 1, 1, 0), Processes(2, 1, f"10.96.0.1:{MPI_PORT}", None, "Open MPI")
    ),
    "mpirun on one host": (
        open_mpi(4, 3, 4, 3), Processes(4, 3, f"10.96.0.1:{MPI_PORT}", 3, "Open MPI")
    ),
    "mpirun of one": (open_mpi(1, 0, 1, 0), Processes()),
    "nobody": ({"HOME": "/"}, Processes()),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_processes_are_found(case):
    environment, processes = CASES[case]
    assert find_processes(DistributedConfig(), environment) == processes
    assert find_processes(DistributedConfig(detect="never"), environment) == Processes()


@pytest.fixture(scope="module")
def jobset():
    return yaml.safe_load(JOBSET.read_text())


@pytest.fixture(scope="module")
def job(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    return replicated["template"]["spec"]


@pytest.fixture(scope="module")
def container(job):
    (container,) = job["template"]["spec"]["containers"]
    return container


def test_jobset_arguments_are_those_of_the_command_line(jobset, job, container):
    assert [entry["name"] for entry in container["env"]] == ["PROCESS_ID"]
    index = container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert all(isinstance(word, str) for word in container["command"] + container["args"])
    program, arguments = container["args"][:3], container["args"][3:]
    assert program == ["python", "-u", "train.py"]
    arguments = [word.replace("$(PROCESS_ID)", "1") for word in arguments]
    config = parse(arguments, recipes=RECIPES).config
    validate(config)
    found = find_processes(config.distributed, {})
    first = f"{jobset['metadata']['name']}-{jobset['spec']['replicatedJobs'][0]['name']}-0-0"
    service = jobset["spec"]["network"]["subdomain"]
    assert found == Processes(2, 1, f"{first}.{service}:61440")
    assert job["completions"] == job["parallelism"] == found.count
    assert config.train.output_dir.startswith(container["volumeMounts"][0]["mountPath"])


def test_jobset_starts_again_after_all_but_bad_input(jobset, job, container):
    policy = jobset["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    rule = {"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    assert policy["rules"] == [rule]
    actions = {}
    for rule in job["podFailurePolicy"]["rules"]:
        codes = rule["onExitCodes"]
        assert (codes["containerName"], codes["operator"]) == (container["name"], "In")
        actions |= dict.fromkeys(codes["values"], rule["action"])
    assert actions == {2: "FailJob", 75: "Count", 76: "Count"}
    assert job["backoffLimit"] == 0 and job["completionMode"] == "Indexed"
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy wants it


CHILD = "trap 'sleep 0.2; echo saved; exit {after}' TERM; echo ready; {do}"


@pytest.mark.parametrize(
    ("do", "after", "send", "status"),
    [("exit 0", 0, False, 0), ("exit 2", 0, False, 2), ("sleep 30 & wait", 0, True, 76),
     ("sleep 30 & wait", 75, True, 75), ("kill -KILL $$", 0, False, 137)],
)  # fmt: skip
def test_jobset_tells_a_stopped_run_from_a_finished_one(container, do, after, send, status):
    child = ["bash", "-c", CHILD.format(after=after, do=do)]
    process = subprocess.Popen(
        [*container["command"], *child], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "ready\n"
    if send:
        time.sleep(0.1)  # until it waits; before that the trap would only come later
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "saved\n"
    assert process.wait(timeout=30) == status
    if send:
        os.killpg(process.pid, signal.SIGKILL)  # the sleep
    process.stdout.close()


def test_launch_readme_names_the_files_and_settings():
    text = (ROOT / "launch" / "README.md").read_text()
    for name in ("slurm.sbatch", "jobset.yaml", "--distributed.coordinator"):
        assert name in text
