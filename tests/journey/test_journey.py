"""A newcomer's way through a clone: console commands as processes, folders relative, to the end."""

import json
import re

import pytest

from tests.journey.clone import Clone
from tests.journey.pages import Command

RECIPE = """\
model: {preset: tiny}
mesh: {pipe: 2}
data: {source: README.md, seq_len: 32, eval_fraction: 0.1}
schedule: {num_microbatches: 2, num_chunks: 2, block: 8}
optimizer: {warmup_steps: 1}
train: {num_steps: 3, eval_sequences: 2, eval_every: 0, sample_tokens: 4, output_dir: runs/own}
checkpoint: {every: 2}
"""
JOURNEY = {
    "train": ("python train.py --config own.yaml", "checkpoints and metrics are in runs/own"),
    "again": (
        "python train.py --config own.yaml --train.num_steps 5 --train.sample_tokens 0",
        "continuing runs/own after step 3",
    ),
    "evaluate": ("python train.py evaluate --train.output_dir runs/own/", "step 5: held-out loss"),
    "generate": (
        "python train.py generate --train.output_dir ./runs/own --prompt '# ' --num_tokens 4", "# ",
    ),
    "export": (
        "python train.py export --train.output_dir runs/own --to 'runs/hand over'",
        "step 5 is in runs/hand over: config.json and safetensors",
    ),
    "another mesh, from another folder": (
        "cd docs/design && python ../../train.py --config ../../own.yaml --train.num_steps 6 "
        "--data.source ../../README.md --mesh.pipe 1 --schedule.num_chunks 1 "
        "--train.sample_tokens 0 --train.output_dir ../../runs/own",
        "continuing ../../runs/own after step 5",
    ),
    "two processes": (
        "python -m seq1f1b_jax.launch --processes 2 --log-dir runs/logs -- train.py --config "
        "own.yaml --train.num_steps 7 --train.output_dir runs/own",
        "continuing runs/own after step 6",
    ),
    "goodput": ("python -m seq1f1b_jax.training.reports.goodput runs/own", "useful"),
    "start over": (
        "python train.py --config own.yaml --train.resume never",  # the first program, compiled
        "starting over; the earlier run is kept in runs/own.1",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What every command wrote; all ended with 0."""
    clone = Clone(tmp_path_factory.mktemp("a journey") / "clone", small=True, stand_in=False)
    (clone.folder / "own.yaml").write_text(RECIPE)
    written = {}
    for name, (text, _) in JOURNEY.items():
        done = clone.run(Command("", "", text), seconds=600)
        written[name] = done.stdout
        assert done.returncode == 0, (name, done.stdout, done.stderr)
        # a busy machine may be told by XLA that its threads wait; nothing else belongs there
        assert "Traceback" not in done.stderr and "error:" not in done.stderr, (name, done.stderr)
    assert clone.left_behind() == {"own.yaml"}
    return clone.folder, written


def test_every_command_does_what_it_says(told):
    folder, written = told
    for name, (_, words) in JOURNEY.items():
        assert words in written[name], written[name]
    assert str(folder) not in "".join(written.values())


def test_one_run_came_of_it(told):
    folder, _ = told
    lines = (folder / "runs/own.1/metrics.jsonl").read_text().splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if "loss" in line]
    assert steps == list(range(7))
    assert (folder / "runs/hand over/model.safetensors").is_file()
    assert re.search("step 7", (folder / "runs/logs/process-0.log").read_text())
