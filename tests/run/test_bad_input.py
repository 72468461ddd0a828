"""Bad input is one line on stderr that names what was given, the rule and the cure; status 2."""

import json
import os
import shutil

import numpy as np
import pytest

from tests.run.tiny import checkpoint_steps, command_line, copy_until, losses, run

# id -> changed settings, what the line must say
SETTINGS = {
    "unknown_key": (
        {"model__num_layer": 3},
        ["'--model.num_layer'", "did you mean '--model.num_layers'?"],
    ),
    "wrong_type": (
        {"data__seq_len": "long"},
        ["data.seq_len='long'", "must be a whole number"],
    ),
    "layers_fewer_than_stages": (
        {"model__num_layers": 3, "mesh__pipe": 4},
        ["model.num_layers=3 is fewer than mesh.pipe=4", "--mesh.pipe 3"],
    ),
    "layers_fewer_than_devices_present": (
        {"model__num_layers": 3, "mesh__pipe": "null"},
        ["model.num_layers=3 is fewer than mesh.pipe=8", "--mesh.pipe 3"],
    ),
    "chunk_lengths_that_do_not_add_up": (
        {"schedule__chunk_lengths": "[16,8]"},
        ["[16, 8] adds up to 24", "data.seq_len=32", "--data.seq_len 24"],
    ),
    "more_devices_than_present": (
        {"model__num_layers": 9, "mesh__pipe": 9},
        ["mesh.pipe=9", "8 are present", "--mesh.pipe 8", "--mesh.virtual_devices 9"],
    ),
    "sequence_longer_than_the_data": (
        {"data__seq_len": 65536},
        ["data.seq_len=65536 needs 65537 tokens", "more text"],
    ),
    "nothing_held_out": (
        {"data__eval_fraction": 1e-6},
        ["data.eval_fraction=1e-06", "raise data.eval_fraction"],
    ),
    "parameters_that_no_memory_holds": (
        {"model__model_dim": 10_000_000},
        ["parameters and optimizer take 1", " GB of memory; lower model.*", "use more devices"],
    ),
    "more_than_all_layers_on_the_host": (
        {"executor__offload": 1.5},
        ["executor.offload=1.5 is not a fraction of the layers", "1 (all in host memory), or auto"],
    ),
    "dropout": (
        {"model__dropout": 0.1},
        ["model.dropout=0.1", "masks are not stored", "model.dropout=0"],
    ),
}


def assert_one_line(outcome, told):
    assert outcome.status == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1, outcome.err
    for words in told:
        assert str(words) in outcome.err, outcome.err


@pytest.mark.parametrize("changes, told", SETTINGS.values(), ids=SETTINGS)
def test_settings(changes, told, tmp_path, source):
    assert_one_line(run(*command_line(tmp_path / "run", source, **changes)), told)
    assert not (tmp_path / "run").exists()  # what cannot run leaves nothing behind


def tokens(*ids):
    return np.array(ids * 500, "<u2").tobytes()


# id -> name and bytes of the data (None: there is no such file), changed settings, what is said
DATA = {
    "missing": ("a.txt", None, {}, ["a.txt", "No such file", "that exist"]),
    "empty": ("a.txt", b"", {}, ["a.txt holds 0 tokens", "give a source with text"]),
    "binary_garbage": ("a.txt", bytes(range(256)) * 9, {}, ["zero byte at offset 0", ".bin"]),
    "not_utf8": ("a.txt", b"abc\xff" * 900, {}, ["byte 0xff at offset 3", "iconv"]),
    "missing_tokens": ("a.bin", None, {"model__vocab_size": 8}, ["a.bin", "No such file"]),
    "broken_tokens": ("a.bin", b"abc", {"model__vocab_size": 8}, ["3 bytes", "2 bytes of uint16"]),
    "token_id_outside_the_vocabulary": (
        "a.bin", tokens(1, 7, 8), {"model__vocab_size": 8},
        ["token id 8 at position 2", "vocab_size=8", "raise model.vocab_size"],
    ),
    "vocabulary_not_told": ("a.bin", tokens(1, 2), {}, ["a.bin", "set model.vocab_size"]),
    "byte_outside_the_vocabulary": (
        "a.txt", b"abcd" * 900, {"model__vocab_size": 100},
        ["token id 100 at position 3", "vocab_size=100"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name, content, changes, told", DATA.values(), ids=DATA)
def test_data(name, content, changes, told, tmp_path):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert_one_line(run(*command_line(tmp_path / "run", path, **changes)), told)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("resume", ["auto", "never"])
@pytest.mark.parametrize("below", [True, False], ids=["below_a_file", "a_file"])
def test_output_folder_that_cannot_be_written(below, resume, tmp_path, source):
    file = tmp_path / "file"
    file.write_text("mine")
    folder = file / "run" if below else file
    outcome = run(*command_line(folder, source, train__resume=resume))
    assert_one_line(outcome, [folder, "Not a directory", "train.output_dir"])
    assert file.read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_output_folder_without_permission(tmp_path, source):
    tmp_path.chmod(0o500)
    outcome = run(*command_line(tmp_path / "run", source))
    tmp_path.chmod(0o700)
    assert_one_line(outcome, [tmp_path / "run", "Permission denied", "train.output_dir"])


@pytest.mark.parametrize("command", ["train", "evaluate", "generate"])
def test_checkpoint_of_another_model(command, finished, source):
    changes = {"model__num_layers": 6, "model__tied": "true"}
    outcome = run(command, *command_line(finished, source, **changes))
    told = ["num_layers: checkpoint 4, this run 6", "tied: checkpoint False, this run True"]
    assert_one_line(outcome, [*told, f"--config {finished}/config.yaml", "--train.output_dir"])
    assert "model_dim" not in outcome.err  # only what differs


def test_checkpoint_of_other_data(finished, source, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(source.read_text() + "!")
    outcome = run(*command_line(finished, other))
    size = source.stat().st_size
    told = f"num_tokens: checkpoint {size}, this run {size + 1}"
    assert_one_line(outcome, [told, "sha256", "--train.output_dir"])


@pytest.mark.parametrize("command", ["evaluate", "generate"])
def test_no_checkpoint(command, tmp_path, source):
    outcome = run(command, *command_line(tmp_path / "run", source))
    assert_one_line(outcome, ["no checkpoint in", tmp_path / "run", "train first"])
    assert not (tmp_path / "run").exists()


def value_file(folder, step):
    """The largest file of a checkpoint: array values."""
    files = (folder / "checkpoints" / f"{step:06d}" / "state").rglob("*")
    return max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def corrupt(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [truncate, pytest.param(corrupt, marks=pytest.mark.slow)])
def test_a_damaged_checkpoint_is_told_and_the_one_before_used(harm, finished, source, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    harm(value_file(folder, 6))
    outcome = run(*command_line(folder, source))
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("checkpoint of step 6 is damaged") == 1
    assert f"\ncontinuing {folder} after step 4\ncompiling the training step ...\n" in outcome.out
    assert checkpoint_steps(folder) == [2, 4, 6]
    assert losses(folder) == losses(finished)


def test_all_checkpoints_damaged_is_told_one_by_one(finished, source, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    for step in (2, 4, 6):
        truncate(value_file(folder, step))
    outcome = run(*command_line(folder, source))
    assert_one_line(outcome, ["no undamaged checkpoint", "2, 4, 6", "start over"])
    for step in (2, 4, 6):
        assert f"checkpoint of step {step} is damaged" in outcome.out
    assert checkpoint_steps(folder) == [2, 4, 6]  # nothing is deleted behind the user's back


def test_a_number_that_is_not_finite_stops_the_run_and_the_last_checkpoint_stays(
    finished, source, tmp_path
):
    folder = copy_until(finished, tmp_path / "run", 4)
    changes = {"optimizer__learning_rate": 1e30, "checkpoint__every": 50, "train__num_steps": 9}
    outcome = run(*command_line(folder, source, **changes))
    # step 5 has the parameters of the checkpoint, and its update would ruin them
    told = ["step 5: ", "update norm inf", "step 4 is kept", "--optimizer.learning_rate"]
    assert_one_line(outcome, told)
    assert checkpoint_steps(folder) == [2, 4]
    assert run(*command_line(folder, source)).status == 0
    assert losses(folder) == losses(finished)


def test_a_number_that_is_not_finite_before_anything_was_saved(source, tmp_path):
    changes = {"optimizer__learning_rate": 1e30, "checkpoint__every": 50, "train__num_steps": 9}
    outcome = run(*command_line(tmp_path / "run", source, **changes))
    assert_one_line(outcome, ["step 1: ", "update norm inf", "nothing was saved"])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == []
