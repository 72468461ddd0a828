"""A run that was stopped or killed continues as if nothing had happened."""

import random
import signal
import time

import numpy as np
import pytest

from tests.run.tiny import (
    Child,
    checkpoint_steps,
    command_line,
    copy_until,
    held_out_losses,
    losses,
    run,
    saved_state,
)

NUM_STEPS = 200


@pytest.fixture(scope="module")
def child(cache, source):
    """Starts a long run, or what is left of it, in a process of its own."""
    started = []

    def start(folder, **changes):
        changes = {"train__num_steps": NUM_STEPS, "checkpoint__every": 10_000} | changes
        started.append(Child(cache, command_line(folder, source, **changes), folder))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture(scope="module")
def uninterrupted(child, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    whole = child(folder)
    assert whole.end() == 0, whole.told()
    return folder


def assert_same_run(folder, reference):
    """Bit for bit: every loss, the held-out loss, parameters, optimizer and step."""
    assert losses(folder) == losses(reference)
    assert held_out_losses(folder) == held_out_losses(reference)
    state, expected = saved_state(folder), saved_state(reference)
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        assert state[name].dtype == array.dtype
        assert state[name].tobytes() == array.tobytes(), name


def test_a_signal_finishes_the_step_saves_and_the_run_continues_bit_equal(
    child, uninterrupted, tmp_path
):
    folder, finished = tmp_path / "run", 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        part = child(folder)
        part.wait_for_step(finished + 2)
        assert part.end(number) == 0, part.told()
        assert finished < len(losses(folder)) < NUM_STEPS, "it ended before the signal came"
        finished = len(losses(folder))
        assert checkpoint_steps(folder)[-1] == finished  # saved, though no checkpoint was due
        assert part.told().count("stopping after this step and saving") == 1
        assert f"stopped after step {finished}; the same command continues" in part.told()
    rest = child(folder)
    assert rest.end() == 0, rest.told()
    assert f"continuing {folder} after step {finished}" in rest.told()
    assert_same_run(folder, uninterrupted)


@pytest.mark.slow  # `test_own_stage` kills a run once, every day
@pytest.mark.parametrize("num_kills", [4, 12])
def test_kill_9_at_random_moments_changes_nothing(num_kills, child, uninterrupted, tmp_path):
    """Some while it starts, most while it trains; it saves after every step, so most in a save."""
    folder, rng = tmp_path / "run", random.Random(0)
    unfinished_saves = 0
    for index in range(num_kills):
        part = child(folder, checkpoint__every=1)
        if index % 4 != 3:
            part.wait_for_step(len(losses(folder)) + 1)
        time.sleep(rng.uniform(0, 0.3))
        assert part.end(signal.SIGKILL) == -signal.SIGKILL, part.told()
        unfinished_saves += any((folder / "checkpoints").glob("*.saving"))
    assert len(losses(folder)) < NUM_STEPS
    # Of twelve some were killed in a save, or this test shows less than it says.
    assert unfinished_saves > 0 or num_kills < 12
    rest = child(folder)
    assert rest.end() == 0, rest.told()
    assert "is damaged" not in rest.told()
    assert_same_run(folder, uninterrupted)


# The same 4 sequences per step, otherwise another pipeline.
TOPOLOGIES = {
    "one_device_1f1b": {
        "mesh__pipe": 1, "schedule__name": "1f1b", "schedule__num_chunks": 1,
    },
    "four_stages_terapipe_two_microbatches": {
        "mesh__pipe": 4, "schedule__name": "terapipe", "schedule__num_chunks": 4,
        "schedule__num_microbatches": 2, "data__microbatch_size": 2,
    },
    "unequal_layers_and_chunks": {
        "mesh__layers_per_stage": "[3,1]", "schedule__num_chunks": 3,
        "schedule__chunk_lengths": "[16,8,8]", "schedule__extra_warmup": 1,
    },
    "balanced_layers": {"mesh__pipe": 3, "mesh__layers_per_stage": "balanced"},
    "ring_of_virtual_stages": {"schedule__name": "seq1f1b-i", "schedule__stages_per_rank": 2},
    "split_backwards": {"mesh__pipe": 4, "schedule__name": "seq-zb-h1"},
    "layers_cut_over_devices": {
        "mesh__pipe": 2, "mesh__tensor": 2, "mesh__sequence_parallel": "true",
    },
}  # fmt: skip


EVERYDAY = ("layers_cut_over_devices",)


@pytest.mark.parametrize(
    "changes",
    [pytest.param(changes, id=name, marks=[pytest.mark.slow] * (name not in EVERYDAY))
     for name, changes in TOPOLOGIES.items()],
)  # fmt: skip
def test_another_pipeline_continues_within_float32_rounding(changes, finished, source, tmp_path):
    folder = copy_until(finished, tmp_path / "run", 2)
    outcome = run(*command_line(folder, source, **changes))
    assert outcome.status == 0, outcome.err
    assert f"continuing {folder} after step 2" in outcome.out
    assert ": checkpoint " not in outcome.out  # another pipeline is no change to tell
    expected = losses(finished)
    assert losses(folder).keys() == expected.keys()
    # A loss is a mean of 128 terms near 5.5; float32 keeps 6e-8 of each.
    np.testing.assert_allclose(list(losses(folder).values()), list(expected.values()), rtol=1e-6)
    # Four updates divide by the root of a second moment, which doubles relative rounding, and sum.
    for name, array in saved_state(finished).items():
        error = np.max(np.abs(saved_state(folder)[name] - array), initial=0)
        assert error <= 1e-5 * np.max(np.abs(array), initial=0), (name, error)
