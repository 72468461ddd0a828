"""One of two processes is asked to stop, dies, or cannot write."""

import random
import signal
import time

import pytest

from seq1f1b_jax.distributed.exits import STOPPED
from seq1f1b_jax.training.checkpoint.read import find_checkpoint
from tests.distributed.conftest import TWO
from tests.distributed.processes import Processes, processes
from tests.run.test_resume import assert_same_run
from tests.run.tiny import checkpoint_steps, copy_until, losses

LONG = TWO | {"train__num_steps": 200, "checkpoint__every": 10_000}


@pytest.fixture(scope="module")
def uninterrupted(cache, source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "long"
    with processes(cache, 2, folder, source, **LONG):
        return folder


@pytest.mark.slow
@pytest.mark.parametrize("asked", [0, 1])
def test_both_finish_the_step_and_save(asked, cache, source, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    status = STOPPED * asked  # as a scheduler wants it, and as a user does
    changes = LONG | {"distributed__stopped_status": status}
    with Processes(cache, 2, folder, source, **changes) as run:
        run.wait_for_step(3)
        assert run.end(asked, signal.SIGTERM) == [status] * 2, run.told()
        finished = len(losses(folder))
        assert 3 <= finished < 200 and checkpoint_steps(folder) == [finished]
        assert f"stopped after step {finished}; the same command continues" in run.told(0)
        assert run.told(asked).count("stopping after this step and saving") == 1
        assert "stopping" not in run.told(1 - asked)
    with processes(cache, 2, folder, source, **LONG) as rest:
        assert f"continuing {folder} after step {finished}" in rest.told(0)
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("dead", [0, 1])
def test_the_other_ends_by_itself_and_the_run_resumes(
    dead, cache, source, uninterrupted, tmp_path
):
    folder = tmp_path / "run"
    with Processes(cache, 2, folder, source, **LONG | {"checkpoint__every": 5}) as run:
        run.wait_for_step(8)
        began = time.monotonic()
        statuses = run.end(dead, signal.SIGKILL)
        seconds = time.monotonic() - began
        print(f"process {dead} killed; {statuses} after {seconds:.1f} s\n{run.told()}")
        assert statuses[dead] == -signal.SIGKILL and statuses[1 - dead] != 0
        assert seconds < 60
    with processes(cache, 2, folder, source, **LONG):
        assert_same_run(folder, uninterrupted)


@pytest.mark.slow
def test_kill_9_of_both_while_they_save(cache, source, uninterrupted, tmp_path):
    folder, rng, unfinished = tmp_path / "run", random.Random(0), 0
    for _ in range(4):
        with Processes(cache, 2, folder, source, **LONG | {"checkpoint__every": 1}) as run:
            run.wait_for_step(len(losses(folder)) + 2)
            time.sleep(rng.uniform(0, 0.3))
        unfinished += any((folder / "checkpoints").glob("*.saving"))
        assert find_checkpoint(folder / "checkpoints", report=pytest.fail).step > 0
    assert unfinished > 0 and len(losses(folder)) < 200
    with processes(cache, 2, folder, source, **LONG) as rest:
        assert "is damaged" not in rest.told()
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("full", [0, 1])
def test_a_process_that_cannot_write_ends_both_and_what_was_saved_stays(
    full, cache, source, by_two, tmp_path
):
    folder = copy_until(by_two[0], tmp_path / "run", 2)
    with Processes(cache, 2, folder, source, limits={full: 50_000}, **TWO) as run:
        assert run.end() == [2, 2], run.told()
        for index in (0, 1):
            [line] = [text for text in run.told(index).splitlines() if text.startswith("error:")]
            assert "checkpoint of step 4 was not written" in line and "(2,)" in line
    assert checkpoint_steps(folder) == [2]
    assert find_checkpoint(folder / "checkpoints", report=pytest.fail).step == 2
