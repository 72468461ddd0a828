"""Seeded sequences of faults: a run ends bit-equal to one that nothing happened to, or says why.

Another number of sequences, with pytest's own options for the rest:

    FAULT_SEQUENCES=500 python -m pytest tests/run/test_random_faults.py -q
"""

import os
import random
import resource
import shutil
import signal
import time

import pytest

from tests.run.test_resume import assert_same_run
from tests.run.tiny import Child, checkpoint_steps, command_line, losses

SEQUENCES = int(os.environ.get("FAULT_SEQUENCES", "4"))
NUM_STEPS, MOST_FAULTS = 40, 6
PATIENCE_SECONDS = 240
SETTINGS = {"train__num_steps": NUM_STEPS, "checkpoint__every": 3, "checkpoint__keep": 3}

pytestmark = pytest.mark.slow


def started(cache, source, folder):
    return Child(cache, command_line(folder, source, **SETTINGS), folder)


@pytest.fixture(scope="module")
def undisturbed(cache, source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    whole = started(cache, source, folder)
    assert ended(whole) == 0, whole.told()
    return folder


def ended(child):
    """Its status; a busy machine takes its time."""
    child.process.join(PATIENCE_SECONDS)
    return child.end()


# ---- faults of a process that runs


def by_signal(number):
    def send(child, rng):
        child.process.join(rng.uniform(0, 0.5))
        return child.end(number if child.process.is_alive() else None)

    return send


def stalled(child, rng):
    """Stopped in the middle of something, as a machine that swaps, and continued."""
    if child.process.is_alive():
        os.kill(child.process.pid, signal.SIGSTOP)
        time.sleep(rng.uniform(0, 1))
        os.kill(child.process.pid, signal.SIGCONT)
    return ended(child)


def full_disk(child, rng):
    """No file gets longer than so many bytes, from some moment on."""
    limit = rng.randrange(500, 60_000)
    if child.process.is_alive():
        resource.prlimit(child.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    return ended(child)


# ---- faults of files, while nothing runs


def torn_line(folder, rng):
    """As a kill in a write leaves it."""
    for name in ("metrics.jsonl", "events.jsonl"):
        if (path := folder / name).exists():
            with path.open("ab") as file:
                file.write(b'{"step": 41, "loss": 5.4, "grad_norm": 1.0}'[: rng.randrange(1, 44)])


def foreign_bytes(folder, rng):
    for name in ("metrics.jsonl", "events.jsonl"):
        if (path := folder / name).exists():
            with path.open("ab") as file:
                file.write(rng.randbytes(rng.randrange(1, 200)) + b"\n" * rng.randrange(2))


def damaged_checkpoint(folder, rng):
    if steps := checkpoint_steps(folder):
        newest = folder / "checkpoints" / f"{steps[-1]:06d}"
        files = [path for path in sorted(newest.rglob("*")) if path.is_file()]
        path = rng.choice([path for path in files if path.stat().st_size])
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)


def lost_checkpoints(folder, rng):
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


RUNNING = (
    by_signal(signal.SIGKILL), by_signal(signal.SIGTERM), by_signal(signal.SIGHUP), stalled,
    full_disk,
)
RESTING = (torn_line, foreign_bytes, damaged_checkpoint, lost_checkpoints)
ENDS = {0, 2, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP}


@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_a_sequence_of_faults(seed, cache, source, undisturbed, tmp_path):
    folder, rng = tmp_path / "run", random.Random(seed)
    for _ in range(rng.randrange(1, MOST_FAULTS)):
        child, fault = started(cache, source, folder), rng.choice(RUNNING)
        wait_for_a_step(child, rng.randrange(3) * rng.randrange(NUM_STEPS // 2))
        status = fault(child, rng)
        assert status in ENDS and "Traceback" not in child.told(), (status, child.told())
        if status == 2 and fault is not full_disk:
            assert last_word(child).startswith("error: no undamaged checkpoint in"), child.told()
            shutil.rmtree(folder / "checkpoints")  # as the line says
        if rng.random() < 0.5:
            rng.choice(RESTING)(folder, rng)
    rest = started(cache, source, folder)
    if ended(rest) == 2:
        assert last_word(rest).startswith("error: no undamaged checkpoint in"), rest.told()
        return
    assert rest.end() == 0, rest.told()
    assert_same_run(folder, undisturbed)


def last_word(child):
    return child.told().splitlines()[-1]


def wait_for_a_step(child, step):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while child.process.is_alive() and len(told_losses(child.folder)) < step:
        assert time.monotonic() < deadline, child.told()
        time.sleep(0.005)


def told_losses(folder):
    return losses(folder) if (folder / "metrics.jsonl").exists() else {}
