"""A run on conversations: its header, its losses, a step without targets, answers."""

import json
import re
import shutil

import numpy as np
import pytest

from seq1f1b_jax.data import load_tokenizer
from seq1f1b_jax.data.__main__ import main as data_command
from seq1f1b_jax.training.reports.metrics import read_metrics
from tests.data.chats import CHATML, MARKED, conversations, save_tokenizer, turns, write_chats
from tests.run.tiny import command_line, run

CHATS = [*conversations(40), *[turns("to be or not " * 40, "x")] * 12]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Conversations as tokens; a dozen are so long that most of their sequences have no target."""
    root = tmp_path_factory.mktemp("chats")
    model = save_tokenizer(root / "model", [
        {"name": "default", "template": CHATML}, {"name": "marked", "template": MARKED},
    ])  # fmt: skip
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 3, 7]}))
    source = write_chats(root / "a.jsonl", CHATS)
    arguments = ["prepare", source, "--to", root / "tokens", "--tokenizer", model]
    arguments += ["--messages=messages", "--chat-template=marked", "--processes=1"]
    assert data_command([str(argument) for argument in arguments]) == 0
    return root / "tokens"


def settings(folder, prepared, **changes):
    return command_line(
        folder, prepared, data__packing="documents", data__seq_len=64, mesh__pipe=1,
        schedule__num_microbatches=1, train__num_steps=8, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "chat"
    outcome = run(*settings(folder, prepared, data__microbatch_size=1))
    assert (outcome.status, outcome.err) == (0, "")
    return folder, outcome.out


def test_the_header_tells_the_share_of_tokens_that_count(trained, prepared):
    meta = json.loads((prepared / "meta.json").read_text())
    share = f"{meta['num_counted'] / meta['num_tokens']:.1%} of its tokens count for the loss"
    assert re.search(rf"^data      prepared, .*{share}, packed documents fill", trained[1], re.M)


def test_a_step_without_targets_changes_nothing_into_nan(trained):
    lines = [line for line in read_metrics(trained[0] / "metrics.jsonl") if "loss" in line]
    empty = [line for line in lines if line["tokens_per_second"] == 0]
    assert 0 < len(empty) < len(lines)  # one sequence a step, and most have no target
    assert all(line["loss"] == line["grad_norm"] == 0 for line in empty)
    assert all(np.isfinite(list(line.values())).all() for line in lines)
    assert all(line["positions_per_second"] > line["tokens_per_second"] for line in lines)


def test_evaluation_counts_what_counts(trained, prepared):
    outcome = run("evaluate", *settings(trained[0], prepared), "--num_sequences=100")
    assert outcome.status == 0, outcome.err
    tokens = int(re.search(r"nats per token over (\S+) tokens", outcome.out)[1])
    assert 0 < tokens < json.loads((prepared / "meta.json").read_text())["num_counted"]


def test_an_answer_alone_is_printed(trained):
    arguments = ["generate", f"--train.output_dir={trained[0]}", "--chat", "--prompt=to be?"]
    arguments += ["--num_tokens=6", "--temperature=0"]
    outcome = run(*arguments)
    assert outcome.status == 0, outcome.err
    assert "to be?" not in outcome.out and outcome.out.endswith("\n")
    plain = run(*(word for word in arguments if word != "--chat"))
    assert plain.out.startswith("to be?")
    assert run(*arguments, "--system=question").status == 0


def test_an_export_has_the_template_and_every_end(trained, tmp_path):
    outcome = run("export", f"--train.output_dir={trained[0]}", f"--to={tmp_path / 'ours'}")
    assert outcome.status == 0, outcome.err
    tokenizer = load_tokenizer(tmp_path / "ours")
    assert tokenizer.chat.templates["default"] == MARKED
    assert tokenizer.stops == load_tokenizer(trained[0]).stops and len(tokenizer.stops) == 4


def test_bad_chats_are_one_line(trained, tmp_path):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert {entry["name"] for entry in config.pop("chat_template")} == {"default", "marked"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    generate = ["generate", f"--train.output_dir={folder}"]
    refused = {
        "has no chat template": [*generate, "--chat"],
        "use it with --chat": [*generate, "--system=x"],
        "belongs to a command; use train.py generate --chat": ["evaluate", "--chat"],
    }
    for told, arguments in refused.items():
        outcome = run(*arguments)
        assert outcome.status == 2 and told in outcome.err and outcome.err.count("\n") == 1
