"""`kill -9` in the middle of saves: the newest committed checkpoint is whole, every time."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from seq1f1b_jax.training.checkpoint.checkpointer import Checkpointer
from seq1f1b_jax.training.checkpoint.read import find_checkpoint, load_state


def content(step: int) -> np.ndarray:
    return np.random.default_rng(step).normal(size=(200, 1000)).astype(np.float32)


def save_for_ever(directory: Path, begun) -> None:
    """Save step after step, and tell every step whose save has returned."""
    checkpointer = Checkpointer(str(directory), keep=2)
    like = {"w": np.zeros((200, 1000), np.float32), "step": np.int32(0)}
    step = checkpointer.restore(like=like).step if checkpointer.steps() else 0
    while True:
        step += 1
        checkpointer.save(step, {"w": content(step), "step": np.int32(step)}, meta={"step": step})
        begun.send(step)


def run_until_killed(directory: Path, seconds: float) -> int:
    """Save without pause, kill -9 after some time; the last step whose save had begun.

    A fork server has the imports done, so a start is cheap.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.run.tiny", "seq1f1b_jax.training.main", __name__])
    told, begun = context.Pipe(duplex=False)
    process = context.Process(target=save_for_ever, args=(directory, begun))
    process.start()
    begun.close()  # so that the end of the process is the end of the pipe
    # the second save begins when the first is committed: from then on there is something to find
    steps = [told.recv(), told.recv()]
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    try:
        while True:
            steps.append(told.recv())
    except EOFError:
        return steps[-1]


def test_kill_9_during_saves_leaves_a_whole_checkpoint_every_time(tmp_path):
    rng = random.Random(0)
    like = {"w": np.zeros((200, 1000), np.float32), "step": np.int32(0)}
    last, leftovers = 0, 0
    for _ in range(5):
        begun = run_until_killed(tmp_path, rng.uniform(0.05, 0.4))
        leftovers += any("." in name for name in os.listdir(tmp_path))
        checkpoint = find_checkpoint(tmp_path, report=pytest.fail)  # the newest one is undamaged
        state = load_state(checkpoint, like)
        assert checkpoint.meta == {"step": checkpoint.step} and state["step"] == checkpoint.step
        assert state["w"].tobytes() == content(checkpoint.step).tobytes()
        # a save begins only once the one before is committed
        assert max(last, begun - 1) <= checkpoint.step <= begun + 1
        last = checkpoint.step
    assert leftovers > 0  # some were killed in the middle of a save, or this test tests nothing
