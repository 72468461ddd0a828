"""Checkpoints that are no good, of other settings, or deleted while they are read; lost data."""

import os
import shutil
import threading

import jax
import numpy as np
import pytest

from seq1f1b_jax.data.windows import WindowData
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.models.hf import export
from seq1f1b_jax.training.checkpoint import folder as folders
from seq1f1b_jax.training.checkpoint import restore as storage
from seq1f1b_jax.training.checkpoint.checkpointer import Checkpointer
from seq1f1b_jax.training.checkpoint.read import find_checkpoint
from tests.run.test_bad_input import assert_one_line
from tests.run.tiny import checkpoint_steps, command_line, copy_until, losses, run, saved_state

COMMANDS = {
    "train": (), "evaluate": (), "generate": ("--prompt=a", "--num_tokens=2"),
    "export": ("--to={}/exported",),
}  # fmt: skip


def with_a_number_that_is_none(folder, name, value):
    """The newest checkpoint, saved once more as the next step."""
    state = {name: np.array(array) for name, array in saved_state(folder).items()}
    state[name].ravel()[-1] = value
    meta = find_checkpoint(folder / "checkpoints").meta
    step = state["step"][...] = state["step"] + 1
    with Checkpointer(folder / "checkpoints", keep=9) as checkpointer:
        checkpointer.save(int(step), state, meta=meta)


def everyday(*names):
    """All commands, of which those that are not named take their time elsewhere."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in names)) for name in COMMANDS]


@pytest.mark.parametrize("command", everyday("train", "generate"))
def test_numbers_that_are_none_in_a_checkpoint_are_named(command, finished, source, tmp_path):
    folder = copy_until(finished, tmp_path / "run", 2)
    with_a_number_that_is_none(folder, "params.layers.mlp.up.kernel", np.nan)
    options = [option.format(tmp_path) for option in COMMANDS[command]]
    outcome = run(command, *command_line(folder, source), *options)
    told = ["the checkpoint of step 3 in", "layers.mlp.up.kernel holds numbers that are not finite"]
    assert_one_line(outcome, told)
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("command", everyday("train", "export"))
def test_numbers_that_are_none_in_a_source_are_named(command, source, tmp_path):
    stage = build_stage("llama", preset="tiny", vocab_size=256)
    params = jax.tree.map(np.array, stage.init(jax.random.key(0)))
    params.layers["mlp"]["down"]["kernel"][1, 0, 0] = np.inf
    export(params, stage, tmp_path / "weights")
    options = [option.format(tmp_path) for option in COMMANDS[command]]
    changes = {
        f"model__{name}": "null" for name in ("num_layers", "model_dim", "num_heads", "mlp_dim")
    }
    settings = command_line(tmp_path / "run", source, **changes)
    given = [setting for setting in settings if not setting.endswith("=null")]
    outcome = run(command, *given, f"--model.source={tmp_path / 'weights'}", *options)
    assert_one_line(outcome, ["model.layers.1.mlp.down_proj.weight holds numbers that are not fin"])
    assert not (tmp_path / "exported").exists()


def test_a_run_that_goes_on_deletes_what_is_evaluated(finished, source, tmp_path, monkeypatch):
    folder = copy_until(finished, tmp_path / "run", 4)
    real, deleted = storage.open_state, []

    def slow(checkpoint, like, **options):
        opened = real(checkpoint, like, **options)  # of which nothing is read yet
        if not deleted:
            shutil.copytree(finished / "checkpoints/000006", folder / "checkpoints/000006")
            for step in (2, 4):
                folders.remove(folder / f"checkpoints/{step:06d}")
                deleted.append(step)
        return opened

    monkeypatch.setattr(storage, "open_state", slow)
    outcome = run("evaluate", *command_line(folder, source))
    assert outcome.status == 0, outcome.err
    assert "step 6: held-out loss" in outcome.out and "damaged" not in outcome.out


def test_a_checkpoint_under_another_name_is_passed_over(finished, source, tmp_path):
    folder = copy_until(finished, tmp_path / "run", 4)
    (folder / "checkpoints/000004").rename(folder / "checkpoints/000005")
    outcome = run(*command_line(folder, source))
    assert outcome.status == 0, outcome.err
    assert "step 5 is damaged (by its meta.json it is that of step 4); not used" in outcome.out
    assert f"continuing {folder} after step 2" in outcome.out
    assert losses(folder) == losses(finished)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "harm",
    [{}, *(pytest.param(harm, marks=SLOW) for harm in (
        {"config": 3}, {"config": {"model": {}}}, {"data": []}
    ))],
)
def test_meta_of_another_shape_is_passed_over(harm, finished, source, tmp_path):
    folder = copy_until(finished, tmp_path / "run", 4)
    path = folder / "checkpoints/000004"
    record = folders.read_meta(path)
    record["meta"] = record["meta"] | harm if harm else {}
    (path / "files.json").unlink()
    folders.seal(path, record)
    outcome = run(*command_line(folder, source))  # the program of `finished`, compiled already
    assert outcome.status == 0, outcome.err
    assert "step 4 is damaged (meta.json is not the record of a run)" in outcome.out


CHANGED = {
    "optimizer__b1": ("0.8", "optimizer.b1: checkpoint 0.9, this run 0.8"),
    "optimizer__clip_norm": ("2", "optimizer.clip_norm: checkpoint 1.0, this run 2.0"),
    "optimizer__learning_rate": ("1", "optimizer.learning_rate: checkpoint 0.003, this run 1.0"),
    "executor__compute_dtype": ("float32", "executor.compute_dtype: checkpoint auto, this run flo"),
    "train__seed": ("1", "train.seed: checkpoint 0, this run 1"),
}  # fmt: skip


def test_settings_that_change_the_result_are_told_one_by_one(finished, source, tmp_path):
    folder = copy_until(finished, tmp_path / "run", 2)
    changes = {name: value for name, (value, _) in CHANGED.items()}
    outcome = run(*command_line(folder, source, train__num_steps=3, **changes))
    assert outcome.status == 0, outcome.err
    notes = [line for line in outcome.out.splitlines() if ": checkpoint " in line]
    assert len(notes) == len(CHANGED)
    for _, told in CHANGED.values():
        assert sum(line.startswith(f"note: {told}") for line in notes) == 1, (told, notes)


def test_data_that_is_cut_under_a_run_ends_it_with_its_steps_saved(source, tmp_path, monkeypatch):
    tokens = tmp_path / "tokens.bin"
    tokens.write_bytes(np.frombuffer(source.read_bytes(), np.uint8).astype("<u2").tobytes())
    arguments = command_line(
        tmp_path / "run", tokens, model__vocab_size=256, checkpoint__every=100
    )
    whole, real = tokens.read_bytes(), WindowData.batch
    assert run(*command_line(tmp_path / "twin", tokens, model__vocab_size=256)).status == 0

    def batch(self, step, **sizes):
        if step == 4 and threading.current_thread() is not threading.main_thread():
            os.truncate(tokens, 4096)
        return real(self, step, **sizes)

    with monkeypatch.context() as patch:
        patch.setattr(WindowData, "batch", batch)
        outcome = run(*arguments)
    assert_one_line(outcome, [tokens, "was cut to 4096 bytes while it was read"])
    assert checkpoint_steps(tmp_path / "run") == [4]
    tokens.write_bytes(whole)
    assert run(*arguments).status == 0
    assert losses(tmp_path / "run") == losses(tmp_path / "twin")
