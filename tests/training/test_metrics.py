"""metrics.jsonl after crashes and resumes."""

import json
import os

import jax.numpy as jnp
import pytest

from seq1f1b_jax.training.reports.metrics import (
    MetricsWriter,
    read_metrics,
)


def test_one_flushed_line_per_step(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    with MetricsWriter(path, start_step=0) as metrics:
        metrics.write(0, loss=jnp.float32(5.5), grad_norm=1)
        assert read_metrics(path) == [{"step": 0, "loss": 5.5, "grad_norm": 1.0}]  # not closed yet
        metrics.write(0, held_out_loss=5.25)
    assert path.read_text().splitlines()[1] == '{"step": 0, "held_out_loss": 5.25}'


def test_resume_drops_later_steps_and_half_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path, start_step=0) as metrics:
        for step in range(5):
            metrics.write(step, loss=step / 3)
        metrics.write(2, held_out_loss=1.0)
    kept = path.read_text().splitlines()[:3]
    with path.open("a") as file:
        file.write('{"step": 5, "lo')  # killed while writing
    with MetricsWriter(path, start_step=3) as metrics:
        metrics.write(3, loss=9.0)
    lines = path.read_text().splitlines()
    assert lines == [*kept, '{"step": 2, "held_out_loss": 1.0}', '{"step": 3, "loss": 9.0}']
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_half_a_line_is_dropped_even_where_it_parses(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "loss": 1.0}\n{"step": 1}')
    MetricsWriter(path, start_step=9).close()
    assert path.read_text() == '{"step": 0, "loss": 1.0}\n'


def test_a_number_that_is_not_finite_is_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(path, start_step=0) as metrics:
        metrics.write(7, loss=float("nan"), grad_norm=float("inf"))
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "step": 7, "loss": None, "grad_norm": None,
    }


def test_unwritable_file_is_one_line(tmp_path):
    (tmp_path / "runs").write_text("a file where a folder should be")
    with pytest.raises(ValueError, match="cannot write .*metrics.jsonl .*set train.output_dir"):
        MetricsWriter(tmp_path / "runs" / "metrics.jsonl", start_step=0)
