"""Faults that show without a model: a disk that fills up, a peer that is killed or stands still."""

import os
import signal
import subprocess
import sys

import pytest

from seq1f1b_jax.distributed.exits import LOST_PEER, USER_ERROR
from tests.distributed.processes import free_address
from tests.faults.runs import ROOT, environment

SAVES = """
import sys
import numpy as np
from seq1f1b_jax.config import UserError
from seq1f1b_jax.training.checkpoint.checkpointer import Checkpointer
from seq1f1b_jax.training.checkpoint.read import find_checkpoint, load_state
like = {"w": np.zeros(50_000)}
try:
    with Checkpointer(sys.argv[1], keep=100) as checkpointer:
        for step in range(1, 20):
            checkpointer.save(step, {"w": np.random.default_rng(step).normal(size=50_000)}, meta={})
except UserError as error:
    print(error)
newest = find_checkpoint(sys.argv[1])
same = load_state(newest, like)["w"] == np.random.default_rng(newest.step).normal(size=50_000)
print("whole", newest.step, same.all())
"""


def test_a_full_disk_at_a_save_is_told_and_the_saves_before_are_whole(tmp_path):
    mount = f"mount -t tmpfs -o size=4m tmpfs {tmp_path} || exit 99; exec \"$0\" -c \"$1\" \"$2\""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, sys.executable,
         SAVES, tmp_path],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"this user may not mount a small file system: {done.stderr}")
    told, whole = done.stdout.splitlines()[-2:]
    step = int(whole.split()[1])
    assert whole == f"whole {step} True" and step > 1, done.stdout + done.stderr
    assert f"checkpoint of step {step + 1} was not written" in told and "make space" in told


WATCHES = """
import signal, sys, time
from pathlib import Path
from seq1f1b_jax.config import DistributedConfig, WatchdogConfig
from seq1f1b_jax.distributed import Processes, one_voice, start
from seq1f1b_jax.training.faults.watchdog import Watchdog
index, address, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
processes = Processes(2, index, address)
with one_voice(processes):
    group = start(processes, DistributedConfig(heartbeat_timeout=3))
with Watchdog(WatchdogConfig(), group, folder, silence=3) as watchdog:
    watchdog.begin(41)
    group.barrier("here")
    while "41" not in str(watchdog._heartbeats.latest.get(1 - index)):
        time.sleep(0.1)
    print("ready", flush=True)
    signal.sigwait({signal.SIGUSR1})
    group.barrier("again")
    print("together", flush=True)
    time.sleep(120)
"""


class Watchers:
    """Processes of a run that do nothing but watch each other."""

    def __init__(self, folder):
        self.address, self.folder, self.all = free_address(), folder, []

    def start(self, index):
        self.all.append(subprocess.Popen(
            [sys.executable, "-c", WATCHES, str(index), self.address, self.folder], cwd=ROOT,
            env=environment() | {"TF_CPP_MIN_LOG_LEVEL": "2"}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        ))  # fmt: skip
        return self.all[-1]

    def __enter__(self):
        pair = [self.start(index) for index in range(2)]
        assert {process.stdout.readline() for process in pair} == {"ready\n"}
        return self

    def __exit__(self, *_):
        for process in self.all:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("gone", "number", "status"),
    [
        (1, signal.SIGSTOP, None),
        (1, signal.SIGTERM, -signal.SIGTERM),
        pytest.param(0, signal.SIGSTOP, None, marks=pytest.mark.slow),
    ],
    ids=["SIGSTOP", "SIGTERM", "SIGSTOP of process 0"],
)
def test_a_process_names_the_one_that_is_gone_and_ends(tmp_path, gone, number, status):
    """SIGTERM too: before the first step there is nothing to save, and it must not be swallowed."""
    with Watchers(tmp_path) as run:
        other = run.all[1 - gone]
        os.kill(run.all[gone].pid, number)
        _, said = other.communicate(timeout=60)
        assert other.returncode == LOST_PEER, said
        assert run.all[gone].poll() == status
    who = f"watchdog: [process {1 - gone} of 2] process {gone} is lost, last heard of in step 41"
    assert who in said and "it has been silent for 3 s" in said
    assert len(said.splitlines()) == 1, "no page of a compiled library beside it"


def test_a_stray_process_with_a_taken_number_is_refused_and_the_run_goes_on(tmp_path):
    with Watchers(tmp_path) as run:
        stray = run.start(1)
        _, said = stray.communicate(timeout=60)
        assert stray.returncode == USER_ERROR
        assert "error: [process 1 of 2] process 1 was not let in: at" in said
        assert len(said.splitlines()) == 1
        second = run.start(0)
        _, said = second.communicate(timeout=60)
        assert second.returncode == USER_ERROR and "process 0 cannot listen on port" in said
        pair = run.all[:2]
        for process in pair:
            os.kill(process.pid, signal.SIGUSR1)
        assert [process.stdout.readline() for process in pair] == ["together\n"] * 2
