"""`--trace` of a run that is complete: a step is traced, nothing of the run changes."""

import shutil

import pytest

from seq1f1b_jax.training.preview import trace
from tests.run.tiny import checkpoint_steps, command_line, run

ONE_CORE = pytest.param(1, True, marks=pytest.mark.slow)


@pytest.mark.parametrize("cores, shared", [ONE_CORE, (2, False)])
def test_a_complete_run_is_traced_and_left_alone(
    cores, shared, finished, source, tmp_path, monkeypatch
):
    folder = shutil.copytree(finished, tmp_path / "run")
    before = (folder / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(trace, "num_cores", lambda: cores)
    outcome = run("--trace", *command_line(folder, source))
    assert outcome.status == 0, outcome.err
    assert "\ntraced one step: " in outcome.out and "the run is complete; " in outcome.out
    assert ("note: 2 virtual devices on 1 core: " in outcome.out) == shared
    drawn = (folder / "trace.html").read_text(encoding="utf-8")
    assert "seq1f1b, measured" in drawn and ("2 virtual devices on 1 core" in drawn) == shared
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert checkpoint_steps(folder) == [2, 4, 6]
