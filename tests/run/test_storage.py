"""What a run's folder allows: moving an earlier run aside, and continuing with the same batches."""

import jax
import pytest

from seq1f1b_jax.models import build_stage, num_params
from seq1f1b_jax.training.run_folder import set_aside
from tests.run.tiny import command_line, run


def test_only_a_run_is_moved_aside(tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    (project / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="project holds files and no run"):
        set_aside(project)
    (project / "metrics.jsonl").write_text("")
    assert set_aside(project) == tmp_path / "project.1"
    assert (tmp_path / "project.1" / "notes.txt").read_text() == "mine"


def test_the_working_folder_is_not_moved_aside(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    with pytest.raises(ValueError, match="is the folder you are in, or above it"):
        set_aside(tmp_path)


def test_another_number_of_sequences_a_step_is_refused(finished, source):
    outcome = run(*command_line(finished, source, schedule__num_microbatches=8))
    assert outcome.status == 2
    assert "sequences a step, and 8 were requested" in outcome.err


@pytest.mark.parametrize("tied", [False, True])
def test_flops_count_the_layers_alone(tied):
    stage = build_stage("llama", preset="tiny", tied=tied)
    layers = jax.eval_shape(stage.init, jax.random.key(0)).layers
    d, mlp, kv = stage.model_dim, stage.mlp_dim, stage.num_kv_heads * stage.head_dim
    one_layer = 2 * d * d + 2 * d * kv + 3 * d * mlp + 2 * d
    assert num_params(stage, only_layers=True) == stage.num_layers * one_layer
    assert layers["attention"]["query"]["kernel"].shape[0] == stage.num_layers
