"""Training from Python: a stage in a file outside of every package, resumed as by the command."""

import importlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import pytest

from seq1f1b_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
    UserError,
)
from seq1f1b_jax.config.model import stage_problems
from seq1f1b_jax.training.custom_stage import model_of
from seq1f1b_jax.training.trainer import Trainer
from tests.pipeline import own_stage
from tests.run.tiny import checkpoint_steps, held_out_losses, losses, run, saved_state


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(own_stage.__file__, folder / "mine.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield importlib.import_module("mine").OwnStage(vocab_size=256)


def config_of(folder, source, num_steps) -> Config:
    return Config(
        mesh=MeshConfig(pipe=2),
        schedule=ScheduleConfig(num_microbatches=4, num_chunks=2, block=8),
        data=DataConfig(source=str(source), seq_len=32),
        optimizer=OptimizerConfig(warmup_steps=0, decay_steps=4),
        train=TrainConfig(
            num_steps=num_steps, eval_sequences=4, sample_tokens=0, output_dir=str(folder)
        ),
        checkpoint=CheckpointConfig(every=2),
    )


@pytest.fixture(scope="module")
def whole(stage, source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    lines = Trainer(stage, config_of(folder, source, 4)).train()
    assert [line["step"] for line in lines if "loss" in line] == [0, 1, 2, 3]
    return folder


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_bit_for_bit(stage, whole, source, tmp_path):
    folder, told = tmp_path / "run", []
    for num_steps in (2, 4):
        Trainer(stage, config_of(folder, source, num_steps), say=told.append).train()
    assert f"continuing {folder} after step 2" in told
    assert checkpoint_steps(folder) == [2, 4]
    assert losses(folder) == losses(whole)
    assert held_out_losses(folder)[3] == held_out_losses(whole)[3]
    state, expected = saved_state(folder), saved_state(whole)
    assert {name: array.tobytes() for name, array in state.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }


def test_its_parameters_and_its_evaluation(stage, whole, source, capsys):
    trainer = Trainer(stage, config_of(whole, source, 4))
    params = trainer.params()
    shapes = jax.eval_shape(stage.init, jax.random.key(0))
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    trainer.evaluate()
    assert f"held-out loss {held_out_losses(whole)[3]:.4f} nats" in capsys.readouterr().out
    trainer.generate("the", num_tokens=4)
    assert capsys.readouterr().out.startswith("the")


def test_the_command_line_takes_it_up(stage, whole):
    outcome = run("evaluate", f"--train.output_dir={whole}")
    assert outcome.status == 0, outcome.err
    assert f"step 4: held-out loss {held_out_losses(whole)[3]:.4f} nats" in outcome.out


def test_the_folder_of_another_stage_is_refused(stage, whole, source):
    with pytest.raises(UserError, match="num_layers: checkpoint 3, this run 2"):
        Trainer(replace(stage, num_layers=2), config_of(whole, source, 6)).train()


def test_a_class_made_in_a_function_has_a_name_that_a_configuration_takes():
    @dataclass(frozen=True)
    class Mine(own_stage.OwnStage):
        pass

    model = model_of(Mine(vocab_size=256))
    assert list(stage_problems(model)) == [] and model.stage.endswith(".locals.Mine")


def test_a_reader_who_leaves_ends_no_training(stage, source, tmp_path, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        lines = Trainer(stage, config_of(tmp_path / "run", source, 2)).train()
    assert [line["step"] for line in lines if "loss" in line] == [0, 1]


def test_a_stage_whose_settings_cannot_be_recorded_is_refused(source, tmp_path):
    class Wrapped:
        def __init__(self, stage):
            self._stage = stage

        def __getattr__(self, name):
            return getattr(self.__dict__["_stage"], name)

    stage = Wrapped(own_stage.OwnStage(vocab_size=256))
    with pytest.raises(UserError, match=r"Wrapped is no dataclass.*@dataclass\(frozen=True\)"):
        Trainer(stage, config_of(tmp_path / "run", source, 2)).train()
    assert list(Path(tmp_path).iterdir()) == []


def test_a_stage_that_breaks_a_rule_is_refused_and_leaves_nothing(source, tmp_path):
    from tests.pipeline.mixing_stages import MeanInPost

    with pytest.raises(ValueError, match=r"MeanInPost.post returned x that depends on other"):
        Trainer(MeanInPost(vocab_size=256), config_of(tmp_path / "run", source, 2)).train()
    assert list(Path(tmp_path).iterdir()) == []
