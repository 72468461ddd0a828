"""A run of four processes survives what kills it, and tells what it was; all of it for real."""

import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from seq1f1b_jax.distributed.exits import LOST_PEER, STALLED, USER_ERROR
from tests.faults.runs import (
    BOUND_SECONDS,
    EVERY,
    ROOT,
    STEPS,
    Run,
    arguments,
    assert_same_run,
    environment,
    final_arrays,
    losses,
)

pytestmark = pytest.mark.slow
SIGKILLED = 128 + signal.SIGKILL
THIRD = 2 * EVERY + 2
"""A step between two checkpoints."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the runs of this file lie, beside the programs that they share."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def undisturbed(place):
    """The folder of a run that nothing happened to."""
    with Run(place / "undisturbed") as run:
        assert run.end() == 0, run.said
    assert len(losses(run.folder)) == STEPS
    return run.folder


@pytest.fixture
def halfway(place, undisturbed, request):
    """A copy of the undisturbed run as it was after step 8: with checkpoints of steps 4 and 8."""
    folder = place / re.sub(r"\W+", "-", request.node.name)
    shutil.copytree(undisturbed, folder)
    for step in range(3 * EVERY, STEPS + 1, EVERY):
        shutil.rmtree(folder / "checkpoints" / f"{step:06d}")
    return folder


def test_kill_9_of_one_ends_all_names_it_and_the_run_resumes_bit_equal(place, undisturbed):
    folder = place / "killed"
    with Run(folder) as run:
        run.wait_for_step(THIRD)
        os.kill(run.pid(2), signal.SIGKILL)
        assert run.end(seconds=BOUND_SECONDS) == SIGKILLED
        assert "process 2 was killed by SIGKILL" in run.said
    done = len(losses(folder))
    assert THIRD <= done < STEPS, "it was not killed in the middle"
    with Run(folder) as run:
        assert run.end() == 0, run.said
    assert_same_run(folder, undisturbed)


def test_kill_9_of_process_0_restarts_by_itself(place, undisturbed):
    with Run(place / "first killed", restarts=1) as run:
        run.wait_for_step(THIRD)
        os.kill(run.pid(0), signal.SIGKILL)
        assert run.end() == 0, run.said
        assert "process 0 was killed by SIGKILL" in run.said and "restart 1 of 1" in run.said
    assert_same_run(run.folder, undisturbed)


def test_a_stalled_process_is_named_with_its_action(place):
    limits = {"watchdog__min_seconds": 6, "watchdog__factor": 3, "watchdog__ticks": "true"}
    with Run(place / "stalled", distributed__heartbeat_timeout=60, **limits) as run:
        run.wait_for_step(EVERY + 1)  # not in a save, where the watchdog of steps rests
        os.kill(run.pid(1), signal.SIGSTOP)
        assert run.end(seconds=BOUND_SECONDS) == STALLED, run.said
    assert "watchdog: [process 0 of 4] step" in run.said
    told = [line for line in run.said.splitlines() if "process 1 is in step" in line]
    assert told and "last finished" in told[0], run.said


@pytest.mark.parametrize("index", [0, 3])
def test_a_stalled_process_is_lost_where_the_watchdog_waits_longer(place, index):
    """Process 0 too, in which the service lies by which they talk; nobody ends by a page of C++."""
    with Run(place / f"silent {index}", distributed__heartbeat_timeout=10) as run:
        run.wait_for_step(EVERY + 1)
        os.kill(run.pid(index), signal.SIGSTOP)
        assert run.end(seconds=BOUND_SECONDS) == LOST_PEER
    assert f"process {index} is lost" in run.said and "silent for 10 s" in run.said
    assert f"ended: process {index} stood still, and process" in run.said.splitlines()[-1]
    assert "Check failure stack trace" not in run.said


def test_kill_9_during_a_save_resumes_bit_equal(place, undisturbed):
    folder = place / "killed in a save"
    for _ in range(2):
        with Run(folder) as run:
            saving = run.wait_for(lambda: unfinished(folder), what="a save")
            os.kill(run.pid(1), signal.SIGKILL)
            assert run.end(seconds=BOUND_SECONDS) == SIGKILLED
            assert saving, "a save had begun"
    with Run(folder) as run:
        assert run.end() == 0, run.said
    assert_same_run(folder, undisturbed)


def unfinished(folder):
    """Folders of saves that are under way."""
    return [*(folder / "checkpoints").glob("*.saving")] or None


@pytest.mark.parametrize("index", [0, 3])
def test_sigterm_of_one_stops_all_after_one_step(place, undisturbed, index):
    with Run(place / f"stopped {index}") as run:
        run.wait_for_step(THIRD)
        os.kill(run.pid(index), signal.SIGTERM)
        assert run.end(seconds=BOUND_SECONDS) == 0, run.said
    done = len(losses(run.folder))
    assert THIRD <= done < STEPS
    assert (run.folder / "checkpoints" / f"{done:06d}").is_dir()
    with Run(run.folder) as run:
        assert run.end() == 0, run.said
    assert_same_run(run.folder, undisturbed)


def test_a_second_run_in_the_same_folder_is_refused(place):
    with Run(place / "taken") as run:
        run.wait_for_step(1)
        second = subprocess.run(
            [sys.executable, *arguments(run.folder, mesh__data=1)], cwd=ROOT, env=environment(),
            capture_output=True, text=True, timeout=120, check=False,
        )
        assert second.returncode == USER_ERROR
        assert f"another run is in {run.folder}: process {run.pid(0)} on" in second.stderr


def test_a_damaged_checkpoint_is_passed_over_and_said(halfway, undisturbed):
    shards = [path for path in (halfway / "checkpoints/000008/state").rglob("*") if path.is_file()]
    largest = max(shards, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with Run(halfway) as run:
        assert run.end() == 0, run.said
    out = halfway.with_suffix(".out").read_text(encoding="utf-8")
    assert f"{largest.name} is not what was written" in out and "after step 4" in out
    assert_same_run(halfway, undisturbed)


FULL_DISK = """
mkdir -p {folder} && mount -t tmpfs -o size={kilobytes}k tmpfs {folder} || exit 99
{command}
status=$?
cp -r {folder} {kept}; exit $status
"""


def test_a_disk_that_is_full_at_a_save_ends_the_run_and_keeps_what_was_saved(place):
    folder, kept = place / "full", place / "kept"
    words = [sys.executable, *arguments(folder, mesh__data=1)]
    command = " ".join(f"'{word}'" for word in words)
    script = FULL_DISK.format(folder=folder, kept=kept, kilobytes=700, command=command)
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script], cwd=ROOT,
        env=environment(), capture_output=True, text=True, timeout=240, check=False,
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip(f"no file system of one's own here: {done.stderr}")
    assert done.returncode == USER_ERROR, done.stderr
    assert "No space left on device" in done.stderr
    assert re.search(r"checkpoint of step \d+ was not written .*committed steps: \(4,", done.stderr)
    shutil.rmtree(folder)
    kept.rename(folder)
    with Run(folder, processes=2, mesh__data=1) as run:
        assert run.end() == 0, run.said
    assert "continuing" in folder.with_suffix(".out").read_text(encoding="utf-8")
    assert len(losses(folder)) == STEPS and final_arrays(folder)


@pytest.mark.parametrize(
    ("processes", "changes"),
    [
        (2, {"mesh__data": 1, "mesh__pipe": 4}),
        (1, {"mesh__data": 1, "mesh__pipe": 1}),
        (2, {"mesh__data": 1, "mesh__tensor": 2, "schedule__num_chunks": 4}),
    ],
    ids=["pipe 4 by 2", "one device", "pipe 2 tensor 2 by 2"],
)
def test_a_run_resumes_on_another_topology(halfway, undisturbed, processes, changes):
    with Run(halfway, processes=processes, **changes) as run:
        assert run.end() == 0, run.said
    np.testing.assert_allclose(losses(halfway), losses(undisturbed), rtol=1e-4)
    assert len(losses(halfway)) == STEPS and final_arrays(halfway)
