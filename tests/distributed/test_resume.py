"""What some processes saved, another number of them continues; the devices are the same, or not."""

import json

import numpy as np
import pytest

from seq1f1b_jax.training.checkpoint.checkpointer import Checkpointer
from seq1f1b_jax.training.checkpoint.folder import folder_of, read_meta
from seq1f1b_jax.training.checkpoint.read import abstract, find_checkpoint, load_state
from tests.distributed.conftest import TWO
from tests.distributed.processes import processes
from tests.run.test_resume import assert_same_run
from tests.run.tiny import command_line, copy_until, losses, run, saved_state

EIGHT = TWO | {"mesh__tensor": 2, "train__num_steps": 20, "checkpoint__every": 10}


def close(folder, expected):
    """Equal up to the rounding that another order of sums makes (see tests/run/test_resume.py)."""
    found = losses(folder)
    assert found.keys() == losses(expected).keys()
    np.testing.assert_allclose(list(found.values()), list(losses(expected).values()), rtol=1e-6)
    state = saved_state(folder)
    for name, array in saved_state(expected).items():
        error = np.max(np.abs(state[name] - array), initial=0)
        assert error <= 1e-5 * np.max(np.abs(array), initial=0), (name, error)


@pytest.mark.slow
def test_one_process_continues_what_two_saved(by_two, source, tmp_path):
    folder = copy_until(by_two[0], tmp_path / "run", 4)
    outcome = run(*command_line(folder, source, **TWO))
    assert outcome.status == 0, outcome.err
    assert f"continuing {folder} after step 4" in outcome.out
    close(folder, by_two[0])


def in_the_older_form(folder, step):
    """Rewrite a checkpoint as versions before several processes wrote it: free of topology."""
    checkpoint = find_checkpoint(folder / "checkpoints", step)
    state = load_state(checkpoint, {n: abstract(text) for n, text in checkpoint.leaves.items()})
    with Checkpointer(folder / "checkpoints", keep=9) as checkpointer:
        checkpointer.save(step, state, meta=checkpoint.meta)
    record = read_meta(folder_of(folder / "checkpoints", step))
    assert record.keys() == {"step", "leaves", "meta"}, json.dumps(record)[:200]


@pytest.mark.slow
def test_a_checkpoint_of_an_older_version_continues(by_two, finished, source, tmp_path):
    folder = copy_until(finished, tmp_path / "run", 4)
    in_the_older_form(folder, 4)
    outcome = run(*command_line(folder, source))
    assert outcome.status == 0, outcome.err
    assert f"continuing {folder} after step 4" in outcome.out
    assert_same_run(folder, finished)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [(4, 1, 1), (1, 4, 1), (1, 2, 2)], ids=str)
def test_four_processes_continue_on_another_mesh(mesh, cache, by_two, source, tmp_path):
    folder = copy_until(by_two[0], tmp_path / "run", 4)
    data, pipe, tensor = mesh
    changes = {"mesh__data": data, "mesh__pipe": pipe, "mesh__tensor": tensor}
    changes |= {"data__microbatch_size": 4, "schedule__num_microbatches": 2}
    count = 2 if tensor > 1 else 4
    with processes(cache, count, folder, source, **changes) as rest:
        assert f"continuing {folder} after step 4" in rest.told(0)
    close(folder, by_two[0])


@pytest.mark.slow
def test_a_damaged_part_of_one_process_is_told_and_the_older_checkpoint_used(
    cache, by_two, source, tmp_path
):
    folder = copy_until(by_two[0], tmp_path / "run", 4)
    newest = folder / "checkpoints" / "000004" / "state"
    shard = max(newest.rglob("ocdbt.process_1/d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with processes(cache, 2, folder, source, **TWO) as rest:
        assert "checkpoint of step 4 is damaged" in rest.told(0)
        assert f"continuing {folder} after step 2" in rest.told(0)
    assert_same_run(folder, by_two[0])


@pytest.mark.slow
def test_eight_devices_are_the_same_run_whoever_has_them(cache, source, tmp_path):
    for count in (1, 2, 4):
        with processes(cache, count, tmp_path / f"by-{count}", source, **EIGHT):
            pass
    assert_same_run(tmp_path / "by-4", tmp_path / "by-2")
    one, two = (losses(tmp_path / f"by-{count}") for count in (1, 2))
    furthest = max(abs(two[step] / one[step] - 1) for step in one)
    print(f"two processes against one, 20 steps: {furthest:.1e} relative")
    assert len(one) == 20 and furthest <= 1e-6


@pytest.mark.slow
def test_evaluation_by_two_processes_is_that_of_one(cache, by_two, source):
    with processes(cache, 2, by_two[0], source, command=["evaluate"], **TWO) as both:
        told, silent = both.told(0), both.told(1)
    alone = run("evaluate", *command_line(by_two[0], source, **TWO))
    assert alone.status == 0, alone.err
    assert "held-out loss" in alone.out and silent == ""
    [line] = [line for line in alone.out.splitlines() if "held-out loss" in line]
    assert line in told.splitlines()
