"""What train, evaluate and generate print and leave behind."""

import json
import math
import re
import shutil

import pytest
import yaml

from seq1f1b_jax.data import load_tokenizer
from seq1f1b_jax.inference.sampling import pieces
from tests.run.tiny import checkpoint_steps, command_line, held_out_losses, losses, run

METRICS = {
    "step", "loss", "grad_norm", "learning_rate", "step_seconds", "data_seconds",
    "tokens_per_second", "positions_per_second",
    "model_flops_per_second",
}  # fmt: skip


def test_a_run_tells_what_runs_how_it_went_and_where_it_is(first_run, source):
    folder, outcome = first_run
    assert (outcome.status, outcome.err) == (0, "")
    told = outcome.out
    for line in (
        "mesh      2 x virtual CPU device, axis pipe",
        "layers    2+2 per stage",
        "sequence  32 tokens in 2 chunks of 16+16 (balanced)",
        "step      4 microbatches of 1: 128 tokens",
        f"data      text, {source.stat().st_size:,} tokens in 1 file, sha256 ",
        "schedule  seq1f1b: at most 3 of 8 units in flight on a device",
    ):
        assert f"\n{line}" in told
    assert re.search(r"^rank 0  F0\.0 F0\.1 F1\.0 ", told, re.MULTILINE)
    assert re.search(r"^step 6/6  loss \d\.\d{3}  \S+ tokens/s  ", told, re.MULTILINE)
    loss = held_out_losses(folder)[5]
    assert f"step 6: held-out loss {loss:.4f} nats per token, bigram model " in told
    assert f"checkpoints and metrics are in {folder}\n" in told
    prompt = told.partition("\nsampled from the trained model:\n")[2][:16]
    assert len(prompt) == 16 and prompt in source.read_text()  # held-out text


def test_metrics_hold_every_step_and_the_configuration_reads_back(finished):
    folder = finished
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(6))
    assert all(set(line) == METRICS for line in steps)
    assert lines[-1].keys() == {"step", "held_out_loss", "bigram_loss"}
    path = folder / "config.yaml"
    assert yaml.safe_load(path.read_text())["model"]["num_layers"] == 4
    again = run("--config", path, f"--train.output_dir={folder}")
    assert again.status == 0 and "the run is complete" in again.out


@pytest.mark.parametrize(
    "seed", ["train__seed", pytest.param("data__seed", marks=pytest.mark.slow)]
)
def test_another_seed_gives_another_run(seed, finished, source, tmp_path):
    assert run(*command_line(tmp_path / "run", source, **{seed: 1})).status == 0
    assert losses(tmp_path / "run")[0] != losses(finished)[0]


def test_a_complete_run_says_so_and_trains_no_further(finished, source, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    before = (folder / "metrics.jsonl").read_bytes()
    outcome = run(*command_line(folder, source))
    assert outcome.status == 0
    assert "the run is complete; add steps with --train.num_steps 12" in outcome.out
    assert "start over with --train.resume never" in outcome.out
    assert "continuing" not in outcome.out and "compiling" not in outcome.out
    assert (folder / "metrics.jsonl").read_bytes() == before
    more = run(*command_line(folder, source, train__num_steps=8, checkpoint__keep=1))
    assert f"continuing {folder} after step 6" in more.out
    assert len(losses(folder)) == 8 and checkpoint_steps(folder) == [8]


def test_starting_over_moves_the_earlier_run_aside(finished, source, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run.1").mkdir()  # taken
    outcome = run(*command_line(folder, source, train__resume="never"))
    assert outcome.status == 0
    assert f"the earlier run is kept in {tmp_path / 'run.2'}" in outcome.out
    assert checkpoint_steps(tmp_path / "run.2") == [2, 4, 6]
    assert checkpoint_steps(folder) == [2, 4, 6]
    assert losses(folder) == losses(tmp_path / "run.2") == losses(finished)  # equal seeds


@pytest.mark.slow
def test_starting_over_in_an_empty_folder_moves_nothing(source, tmp_path):
    (tmp_path / "run").mkdir()
    outcome = run(*command_line(tmp_path / "run", source, train__resume="never"))
    assert outcome.status == 0 and "starting over" not in outcome.out
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def evaluated(outcome):
    assert outcome.status == 0, outcome.err
    told = r"(?m)^step 6: held-out loss (\S+) nats per token over (\S+) tokens of 4 sequences$"
    found = re.search(told, outcome.out)
    assert found and found[2] == "128"
    return float(found[1])


@pytest.mark.parametrize("pipe", [1, 4])
def test_evaluate_is_the_same_through_every_pipeline(pipe, finished, source):
    before = sorted(finished.rglob("*"))
    outcome = run("evaluate", *command_line(finished, source, mesh__pipe=pipe))
    assert "compiling the evaluation" in outcome.err and "compiling" not in outcome.out
    expected = held_out_losses(finished)[5]
    assert abs(evaluated(outcome) - expected) <= 1e-5 * expected + 0.5e-4  # four printed digits
    perplexity = float(re.search(r"^perplexity (\S+), ", outcome.out, re.MULTILINE)[1])
    assert perplexity == pytest.approx(math.exp(expected), rel=1e-4)
    assert "bigram model on the same text: " in outcome.out
    assert sorted(finished.rglob("*")) == before  # evaluation writes nothing


def test_generate_writes_the_prompt_and_as_many_tokens_as_asked(finished, source):
    arguments = ["generate", *command_line(finished, source), "--prompt=the ", "--num_tokens=12"]
    one, two = run(*arguments), run(*arguments)
    other = run(*arguments, "--seed=1")
    assert one.status == 0 and one.out.startswith("the ") and one.out.endswith("\n")
    assert 1 <= len(one.out) - len("the \n") <= 12  # bytes that form no character become one mark
    assert one.out == two.out != other.out


def test_no_sampled_byte_commands_the_terminal():
    sampled = iter([65, 27, 7, 10, 9, 13, 0xC3, 0xA9, 0xFF, 0, 66])
    text = "".join(pieces(sampled, load_tokenizer("bytes"), stops=(0,)))
    assert text == "A\ufffd\ufffd\n\t\ufffdé\ufffd"  # byte 0 ends the document
