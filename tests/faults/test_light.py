"""Faults that show without a model: a disk that fills up, a peer that is killed or stands still."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from seq1f1b_jax.distributed.exits import LOST_PEER
from tests.faults.runs import ROOT, environment

SAVES = """
import sys
import numpy as np
from seq1f1b_jax.config import UserError
from seq1f1b_jax.training.checkpoint import Checkpointer
from seq1f1b_jax.training.checkpoint_read import find_checkpoint, load_state
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
import sys, time
from pathlib import Path
from seq1f1b_jax.config import DistributedConfig, WatchdogConfig
from seq1f1b_jax.distributed import Processes, start
from seq1f1b_jax.training.watchdog import Watchdog
index, port, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
group = start(Processes(2, index, "127.0.0.1:" + port), DistributedConfig())
with Watchdog(WatchdogConfig(), group, folder, silence=3) as watchdog:
    watchdog.begin(41)
    group.barrier("here")
    print("ready", flush=True)
    time.sleep(120)
"""


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGSTOP, -signal.SIGKILL), (signal.SIGTERM, -signal.SIGTERM)],
    ids=["SIGSTOP", "SIGTERM"],
)
def test_a_process_names_the_one_that_is_gone_and_ends(tmp_path, number, status):
    """SIGTERM too: before the first step there is nothing to save, and it must not be swallowed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", WATCHES, str(index), port, tmp_path], cwd=ROOT,
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for index in range(2)
    )
    try:
        assert {process.stdout.readline() for process in (first, second)} == {"ready\n"}
        os.kill(second.pid, number)
        _, said = first.communicate(timeout=60)
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    assert first.returncode == LOST_PEER and second.returncode == status, said
    assert "[process 0 of 2] process 1 is lost" in said and "it has been silent for 3 s" in said
