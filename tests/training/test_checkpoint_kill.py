"""`kill -9` in the middle of saves: the newest committed checkpoint is whole, every time."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from seq1f1b_jax.training.checkpoint_read import find_checkpoint, load_state

ENDLESS_SAVES = """
import sys
import numpy as np
from seq1f1b_jax.training.checkpoint import Checkpointer
checkpointer = Checkpointer(sys.argv[1], keep=2)
like = {"w": np.zeros((200, 1000), np.float32), "step": np.int32(0)}
step = checkpointer.restore(like=like).step if checkpointer.steps() else 0
while True:
    step += 1
    state = {"w": np.random.default_rng(step).normal(size=(200, 1000)).astype(np.float32),
             "step": np.int32(step)}
    checkpointer.save(step, state, meta={"step": step})
    print(step, flush=True)
"""


def run_until_killed(directory: Path, seconds: float) -> int:
    """Save without pause, kill -9 after some time; the last step whose save had begun."""
    program = subprocess.Popen(
        [sys.executable, "-c", ENDLESS_SAVES, str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    # the second save begins when the first is committed: from then on there is something to find
    begun = [int(program.stdout.readline()) for _ in range(2)][1]
    time.sleep(seconds)
    program.send_signal(signal.SIGKILL)
    out, _ = program.communicate()
    return int(out.split()[-1]) if out else begun


def test_kill_9_during_saves_leaves_a_whole_checkpoint_every_time(tmp_path):
    rng = random.Random(0)
    like = {"w": np.zeros((200, 1000), np.float32), "step": np.int32(0)}
    last, leftovers = 0, 0
    for _ in range(5):
        begun = run_until_killed(tmp_path, rng.uniform(0.05, 0.4))
        leftovers += any("." in name for name in os.listdir(tmp_path))
        checkpoint = find_checkpoint(tmp_path, report=pytest.fail)  # the newest one is undamaged
        state = load_state(checkpoint, like)
        expected = np.random.default_rng(checkpoint.step).normal(size=(200, 1000))
        assert checkpoint.meta == {"step": checkpoint.step} and state["step"] == checkpoint.step
        assert state["w"].tobytes() == expected.astype(np.float32).tobytes()
        # a save begins only once the one before is committed
        assert max(last, begun - 1) <= checkpoint.step <= begun + 1
        last = checkpoint.step
    assert leftovers > 0  # some were killed in the middle of a save, or this test tests nothing
