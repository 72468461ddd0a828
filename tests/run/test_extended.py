"""A finished run that is given more steps: what becomes of its learning rate, and what is said."""

import shutil

import pytest

from seq1f1b_jax.training.reports.metrics import read_metrics
from tests.run.tiny import command_line, run


def learning_rates(folder):
    """Of every step."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [line["learning_rate"] for line in lines if "loss" in line]


def test_the_last_step_of_a_run_has_the_floor(finished):
    rates = learning_rates(finished)
    assert rates[0] == pytest.approx(3e-3) and rates[5] == pytest.approx(3e-4)


@pytest.mark.slow
def test_more_steps_are_told_from_what_to_what_and_can_be_held(finished, source, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    outcome = run(*command_line(folder, source, train__num_steps=9))
    assert outcome.status == 0, outcome.err
    rates = learning_rates(folder)
    assert [rates[5], rates[8]] == pytest.approx([3e-4, 3e-4]) and rates[6] > 6e-4
    (note,) = [line for line in outcome.out.splitlines() if "learning rate" in line]
    assert note == (
        f"note: from step 7 on the learning rate is {rates[6]:.4g} and not 0.0003, since it falls "
        "over 9 steps now and not over 6; --optimizer.decay_steps 6 keeps the earlier course"
    )

    held = shutil.copytree(finished, tmp_path / "held")
    outcome = run(*command_line(held, source, train__num_steps=8, optimizer__decay_steps=6))
    assert outcome.status == 0 and "learning rate" not in outcome.out
    assert learning_rates(held)[5:] == pytest.approx([3e-4] * 3)
