"""From a checkpoint of others to one for others: train, evaluate, sample, export on documents."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
import yaml

from seq1f1b_jax.data import train_bpe
from seq1f1b_jax.data.__main__ import main as data_command
from seq1f1b_jax.models import build_stage
from seq1f1b_jax.models.hf import export, load_canonical, read_source
from tests.run.tiny import command_line, copy_until, losses, run, saved_state

TOKENS = 300
SIZES = dict(
    num_layers=4, model_dim=16, num_heads=4, num_kv_heads=2, mlp_dim=24, vocab_size=TOKENS,
    tied=True, qkv_bias=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def theirs(source, tmp_path_factory):
    """A small checkpoint with a tokenizer of its own, as another program would hand it over."""
    folder = tmp_path_factory.mktemp("theirs")
    train_bpe([source], TOKENS).save(folder)
    stage = build_stage("llama", **SIZES)
    export(
        stage.init(jax.random.key(7)), stage, folder / "model",
        tokenizer_file=folder / "tokenizer.json", context_length=64, special_tokens={"eos": 0},
    )
    (folder / "model" / "chat_template.jinja").write_text("{{ messages }}")
    return folder / "model"


@pytest.fixture(scope="module")
def prepared(source, theirs, tmp_path_factory):
    """The text in documents of 40 words, as tokens of the checkpoint's tokenizer."""
    root = tmp_path_factory.mktemp("prepared")
    words = source.read_text().split()
    lines = [" ".join(words[i : i + 40]) for i in range(0, len(words), 40)]
    (root / "text.txt").write_text("\n---\n".join(lines))
    arguments = ["prepare", root / "text.txt", "--to", root / "tokens", "--tokenizer", theirs]
    arguments += ["--split-documents-on=---", "--processes=1"]
    assert data_command([str(argument) for argument in arguments]) == 0
    return root / "tokens"


def settings(folder, prepared, theirs, **changes):
    """Packed documents, and the checkpoint's own sizes."""
    sizes = ("num_layers", "model_dim", "num_heads", "mlp_dim")
    line = command_line(
        folder, prepared, model__source=theirs, data__packing="documents", data__seq_len=64,
        checkpoint__every=3, **changes,
    )  # fmt: skip
    return [part for part in line if not any(part.startswith(f"--model.{s}=") for s in sizes)]


@pytest.fixture(scope="module")
def tuned(prepared, theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tuned"
    outcome = run(*settings(folder, prepared, theirs, train__sample_tokens=4))
    assert (outcome.status, outcome.err) == (0, "")
    return folder, outcome.out


def test_a_run_starts_from_the_checkpoint_and_tells_so(tuned):
    _, told = tuned
    assert re.search(r"^source    model: \w+, 4 layers of width 16, vocabulary 300", told, re.M)
    assert re.search(r"packed documents fill \d\d\.\d%", told)
    assert "starting from model: " in told


@pytest.mark.slow
def test_the_first_loss_is_that_of_the_checkpoint(tuned, prepared, theirs, tmp_path):
    """Training at a learning rate of nothing evaluates as the checkpoint itself does."""
    folder = tmp_path / "still"
    still = run(*settings(folder, prepared, theirs, optimizer__learning_rate=1e-30))
    assert still.status == 0
    before = run("evaluate", *settings(tmp_path / "none", prepared, theirs))
    assert before.status == 0, before.err
    found = re.search(r"(?m)^(\S+): held-out loss (\S+) nats", before.out)
    assert found[1] == str(theirs)
    assert f"step 6: held-out loss {found[2]} nats" in still.out


def test_evaluation_tells_bits_per_byte_and_loss_by_position(tuned, prepared, theirs):
    outcome = run("evaluate", *settings(tuned[0], prepared, theirs))
    assert outcome.status == 0, outcome.err
    loss, tokens = re.search(r"loss (\S+) nats per token over (\S+) tokens", outcome.out).groups()
    per_byte = float(re.search(r"bits per byte (\S+)$", outcome.out, re.M)[1])
    bytes_per_token = float(loss) / np.log(2) / per_byte
    assert 1 < bytes_per_token < 8 and int(tokens) > 64
    assert re.search(r"^   0 \.\.\. 63   \d\.\d{4}  #+$", outcome.out, re.M)


def test_generation_knows_the_tokenizer_without_the_data(tuned, theirs, tmp_path):
    arguments = settings(tuned[0], tmp_path / "gone", theirs)
    outcome = run("generate", *arguments, "--prompt=the ", "--num_tokens=8")
    assert outcome.status == 0, outcome.err
    assert outcome.out.startswith("the ")


def test_a_lost_tokenizer_is_not_taken_for_bytes(tuned, theirs, tmp_path):
    folder = copy_until(tuned[0], tmp_path / "run", 6)
    (folder / "tokenizer.json").unlink()
    outcome = run("generate", *settings(folder, tmp_path / "gone", theirs), "--prompt=the ")
    assert outcome.status == 2 and f"{folder} has no tokenizer.json" in outcome.err


def test_export_hands_back_what_was_trained(tuned, prepared, theirs, tmp_path):
    arguments = ["export", *settings(tuned[0], prepared, theirs), f"--to={tmp_path / 'ours'}"]
    outcome = run(*arguments)
    assert outcome.status == 0, outcome.err
    source = read_source(tmp_path / "ours")
    stage = build_stage(**source.fields)
    state = saved_state(tuned[0])
    embedding = load_canonical(source, stage).embedding
    np.testing.assert_array_equal(embedding, state["params.embedding"])
    assert source.tokenizer_file is not None and source.context_length == 64
    again = run(*arguments)
    assert again.status == 2 and "ours exists" in again.err


def test_a_run_outlives_what_it_started_from(tuned, tmp_path):
    folder = copy_until(tuned[0], tmp_path / "run", 6)
    recipe = ["--config", folder / "config.yaml", f"--train.output_dir={folder}"]
    outcome = run("evaluate", *recipe, "--model.source=gone")
    assert outcome.status == 0, outcome.err
    assert "continuing without model.source: " in outcome.out and "'gone'" in outcome.out
    assert "step 6: held-out loss " in outcome.out
    handed = tmp_path / "handed"
    outcome = run("export", *recipe, "--model.source=gone", f"--to={handed}")
    assert outcome.status == 0, outcome.err
    assert (handed / "chat_template.jinja").read_text() == "{{ messages }}"
    generation = json.loads((handed / "generation_config.json").read_text())
    assert generation["eos_token_id"] == 0 and (handed / "tokenizer.json").is_file()


def test_another_source_is_not_read_by_a_run_that_began(tuned, prepared, theirs, tmp_path):
    other = shutil.copytree(theirs, tmp_path / "other")
    outcome = run("evaluate", *settings(tuned[0], prepared, other))
    assert outcome.status == 0, outcome.err
    assert f"began from model.source={theirs}; {other} is not read" in outcome.out


def test_resume_is_bit_equal_on_packed_documents(tuned, prepared, theirs, tmp_path):
    folder = copy_until(tuned[0], tmp_path / "run", 3)
    outcome = run(*settings(folder, prepared, theirs))
    assert outcome.status == 0 and "after step 3" in outcome.out
    assert "starting from" not in outcome.out
    assert losses(folder) == losses(tuned[0])


def test_chunks_may_be_cut_for_every_batch(tuned, prepared, theirs, tmp_path):
    folder = tmp_path / "run"
    outcome = run(*settings(folder, prepared, theirs, schedule__documents="batch"))
    assert outcome.status == 0, outcome.err
    assert "\ncompiling the training step, cut 1 with chunks that end at [" in outcome.out
    ours, other = losses(folder), losses(tuned[0])
    assert all(abs(ours[step] / other[step] - 1) < 1e-4 for step in other)


BAD = {
    "data of another tokenizer": (
        {"data__source": "stdlib"}, ["other tokens than the checkpoint", "256 and 300", "prepare"]
    ),
    "no checkpoint": ({"model__source": "nowhere"}, ["model.source='nowhere'", "config.json"]),
    "fewer rows than tokens": ({"model__vocab_size": 299}, ["300", "model.vocab_size=299"]),
    "documents of a .bin": ({"data__source": "x.bin"}, ["x.bin"]),
    "window of nothing": ({"model__window": 0}, ["model.window=0", "null for no window"]),
}


@pytest.mark.parametrize("changes, told", BAD.values(), ids=BAD)
def test_bad_input_is_one_line(changes, told, prepared, theirs, tmp_path):
    outcome = run(*settings(tmp_path / "run", prepared, theirs), *(
        f"--{name.replace('__', '.')}={value}" for name, value in changes.items()
    ))
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert all(words in outcome.err for words in told), outcome.err


@pytest.mark.parametrize(
    ("given", "rows"),
    [([], TOKENS), (["--model.preset=125m"], 50304), (["--model.vocab_size=400"], 400)],
    ids=["smaller preset", "larger preset", "as set"],
)
def test_the_vocabulary_has_rows_for_the_tokens_of_the_data(given, rows, prepared):
    printed = run("--print_config", f"--data.source={prepared}", *given)
    assert yaml.safe_load(printed.out)["model"]["vocab_size"] == rows
