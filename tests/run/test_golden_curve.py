"""A short loss curve as it was once seen: data, initialisation, schedule and update together.

Any of them that changes what is computed moves the curve at once. The text is made by a seeded
generator, so the figures hang on no file of the machine; jax 0.10.2 and 0.12 agree within 1e-6,
and rounding of another processor is multiplied by six steps of a large learning rate.
"""

import pytest

from seq1f1b_jax.training.reports.metrics import read_metrics
from tests.run.tiny import held_out_losses, losses

LOSSES = [5.5545397, 5.5245271, 5.4736938, 5.4046421, 5.3621215, 5.3682642]
RATES = [3.0e-3, 2.7421729e-3, 2.0671729e-3, 1.2328271e-3, 5.5782717e-4, 3.0e-4]
HELD_OUT, BIGRAM = 5.3491539, 2.3454097


def test_the_curve_is_as_it_was(finished):
    assert list(losses(finished).values()) == pytest.approx(LOSSES, rel=1e-5)
    lines = read_metrics(finished / "metrics.jsonl")
    rates = [line["learning_rate"] for line in lines if "loss" in line]
    assert rates == pytest.approx(RATES, rel=1e-6)
    assert held_out_losses(finished)[5] == pytest.approx(HELD_OUT, rel=1e-5)
    assert lines[-1]["bigram_loss"] == pytest.approx(BIGRAM, rel=1e-6)
