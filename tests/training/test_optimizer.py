"""The learning rate of every step, at the borders of warm-up and decay, and in a longer run."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from seq1f1b_jax.config import Config, OptimizerConfig, TrainConfig
from seq1f1b_jax.training.optimizer import describe_change, learning_rate_schedule


def rates(num_steps, **settings):
    """Of steps 0 ... num_steps + 1, over the peak."""
    schedule = learning_rate_schedule(OptimizerConfig(learning_rate=2.0, **settings), num_steps)
    return np.array([float(schedule(step)) / 2 for step in range(num_steps + 2)])


def by_hand(num_steps, warmup, floor=0.1):
    """The same from the definition."""
    rise = [(step + 1) / (warmup + 1) for step in range(warmup)]
    falls = num_steps - 1 - warmup
    turn = np.pi * np.arange(falls + 1) / max(falls, 1)
    fall = floor + (1 - floor) * (1 + np.cos(turn)) / 2
    return np.array([*rise, *fall])


@pytest.mark.parametrize(
    "num_steps, asked, taken",
    [(12, 0, 0), (12, 2, 2), (12, 5, 5), (12, 6, 5), (12, 12, 5), (12, 100, 5), (13, 100, 6),
     (2, 20, 0), (3, 20, 1), (4, 20, 1), (1, 0, 0), (1, 20, 0), (400, 40, 40)],
)  # fmt: skip
def test_every_step_has_its_rate_and_the_last_one_the_floor(num_steps, asked, taken):
    found = rates(num_steps, warmup_steps=asked)
    np.testing.assert_allclose(found[:num_steps], by_hand(num_steps, taken), rtol=1e-6)
    assert found[taken] == 1  # the peak
    if num_steps > 1:
        assert found[num_steps - 1 :] == pytest.approx([0.1] * 3, rel=1e-6)


def test_a_decay_of_its_own_length_ends_there_and_stays():
    held = rates(12, warmup_steps=2, decay_steps=8)
    np.testing.assert_allclose(held[:8], by_hand(8, 2), rtol=1e-6)
    np.testing.assert_allclose(held[8:], 0.1, rtol=1e-6)


COURSES = {
    "linear": (dict(schedule="linear"), 13, {2: 1, 7: 0.55, 12: 0.1, 13: 0.1}),
    "linear that ends early": (
        dict(schedule="linear", decay_steps=7), 13, {2: 1, 4: 0.55, 6: 0.1, 12: 0.1},
    ),
    "constant": (dict(schedule="constant"), 13, {2: 1, 12: 1, 14: 1}),
    "warm-up longer than the run": (
        dict(schedule="constant", warmup_steps=9), 4, {3: 0.4, 5: 0.6},
    ),
    "wsd": (dict(schedule="wsd"), 40, {2: 1, 31: 1, 32: 0.8875, 35: 0.55, 39: 0.1, 41: 0.1}),
    "wsd of a fraction": (
        dict(schedule="wsd", decay_fraction=0.5, min_learning_rate_ratio=0.0), 20,
        {9: 1, 10: 0.9, 14: 0.5, 19: 0},
    ),
    "wsd without a stable part": (
        dict(schedule="wsd", decay_fraction=1.0), 13, {2: 1, 7: 0.55, 12: 0.1},
    ),
    "wsd of one step": (dict(schedule="wsd"), 1, {0: 1}),
}


@pytest.mark.parametrize("settings, num_steps, expected", COURSES.values(), ids=COURSES)
def test_other_courses_at_named_steps(settings, num_steps, expected):
    found = rates(num_steps, **dict(warmup_steps=2) | settings)
    assert {step: found[step] for step in expected} == pytest.approx(expected, rel=1e-6, abs=1e-7)
    if num_steps > 4:
        assert found[:2] == pytest.approx([1 / 3, 2 / 3])  # all rise alike


def test_a_longer_wsd_run_keeps_its_stable_part():
    short, long = (rates(n, warmup_steps=5, schedule="wsd") for n in (50, 100))
    np.testing.assert_array_equal(short[:40], long[:40])
    np.testing.assert_array_equal(long[5:80], 1)
    assert long[99] == pytest.approx(0.1)


def config(num_steps, **settings):
    optimizer = OptimizerConfig(learning_rate=3e-3, warmup_steps=40, **settings)
    return Config(optimizer=optimizer, train=TrainConfig(num_steps=num_steps))


def test_a_run_made_longer_is_told_from_what_to_what_and_how_to_hold_it():
    first = asdict(config(400))
    told = describe_change(first, config(600), 400)
    schedule = learning_rate_schedule(config(600).optimizer, 600)
    assert float(schedule(400)) > 9e-4
    assert told == (
        f"note: from step 401 on the learning rate is {float(schedule(400)):.4g} and not 0.0003, "
        "since it falls over 600 steps now and not over 400; --optimizer.decay_steps 400 keeps "
        "the earlier course"
    )
    held = config(600, decay_steps=400)
    assert describe_change(first, held, 400) is None
    assert describe_change(asdict(held), config(800, decay_steps=400), 600) is None  # once more
    change = describe_change(asdict(held), config(600), 500)
    assert "over 600 steps now and not over 400; " in change


def test_a_longer_wsd_run_is_told_where_it_goes_on_at_its_peak():
    first, longer = asdict(config(400, schedule="wsd")), config(600, schedule="wsd")
    for step in (0, 300, 320):  # before the fall
        assert describe_change(first, longer, step) == (
            "note: from step 321 on the learning rate is 0.003 and not 0.002966, since it falls in "
            "steps 481 to 600 now and not in 321 to 400; --optimizer.decay_steps 400 keeps the "
            "earlier course"
        )
    assert describe_change(first, longer, 400).startswith(
        "note: from step 401 on the learning rate is 0.003 and not 0.0003, "
    )
    assert describe_change(first, config(600, schedule="wsd", decay_steps=400), 390) is None


def test_other_courses_of_a_longer_run():
    linear = asdict(config(400, schedule="linear"))
    told = describe_change(linear, config(600, schedule="linear"), 400)
    assert "0.001261 and not 0.0003, since it falls over 600 steps now and not over 400" in told
    constant = asdict(config(400, schedule="constant"))
    assert describe_change(constant, config(600, schedule="constant"), 400) is None
    told = describe_change(constant, config(600, schedule="wsd"), 400)
    assert told == (
        "note: from step 481 on the learning rate is 0.002977 and not 0.003, since settings of the "
        "optimizer have changed"
    )


def test_a_run_that_goes_on_as_it_began_is_told_nothing():
    first = asdict(config(400))
    for step in (0, 20, 200, 399):
        assert describe_change(first, config(400), step) is None
    old = first | {"optimizer": {"learning_rate": 3e-3, "warmup_steps": 40, "b1": 0.9}}
    assert describe_change(old, config(400), 200) is None  # of a version with fewer settings
    assert describe_change(first, config(400), 400) is None  # complete: no step runs
    del first["optimizer"]["decay_steps"]  # written before there was such a setting
    assert describe_change(first, config(400), 200) is None


def test_another_rate_by_other_settings_is_told_without_a_cure_that_is_none():
    after = config(400)
    after = replace(after, optimizer=replace(after.optimizer, learning_rate=1e-3))
    told = describe_change(asdict(config(400)), after, 399)
    assert told == (
        "note: from step 400 on the learning rate is 0.0001 and not 0.0003, since settings of the "
        "optimizer have changed"
    )
