"""`train.py plan` as its user runs it: relative paths, no JAX, one line for bad input."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from seq1f1b_jax.cli import parse
from seq1f1b_jax.cli.recipes import packaged_recipes
from seq1f1b_jax.train import main

ROOT = Path(__file__).parents[2]
SMALL = (
    "--config", "gpu8_2.7b_32k", "--model.num_layers", "8", "--data.seq_len", "2048",
    "--schedule.num_microbatches", "4",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_configuration_is_explained(folder, capsys):
    assert main(["plan", *SMALL, "--search", "false", "--tokens", "1e9", "--price", "2"]) == 0
    printed = capsys.readouterr().out
    for word in ("model     gpt 2.7b", "8 x H100 SXM 80 GB", "ring", "rank 7", "matmul", "bubble",
                 "tokens/s per device", "% model", "% published", "% square", "device hours"):
        assert word in printed
    assert "search" not in printed


def test_the_recipe_is_what_was_found_and_train_reads_it(folder, capsys):
    command = ["plan", *SMALL, "--devices", "4", "--to", "own.yaml", "--draw", "own.svg"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "configurations:" in printed and (folder / "own.svg").stat().st_size > 10_000
    tree = yaml.safe_load((folder / "own.yaml").read_text(encoding="utf-8"))
    assert tree["model"] == {"family": "gpt", "preset": "2.7b", "num_layers": 8}
    config = parse(["--config", "own.yaml"], recipes=packaged_recipes()).config
    assert config.mesh.data * config.mesh.pipe * config.mesh.tensor == 4
    assert config.mesh.platform == "gpu"
    assert config.schedule.num_microbatches * config.data.microbatch_size == 4
    best = printed.split("limited by\n")[1].splitlines()[0].split()
    assert best[1:6] == f"{config.mesh.data} x {config.mesh.pipe} x {config.mesh.tensor}".split()
    before = (folder / "own.yaml").read_bytes()
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err
    assert (folder / "own.yaml").read_bytes() == before


def test_it_needs_no_jax(folder):
    code = (
        "import sys; sys.modules['jax'] = sys.modules['jaxlib'] = sys.modules['flax'] = None\n"
        "from seq1f1b_jax.plan.__main__ import main\n"
        f"sys.exit(main({[*SMALL, '--search', 'false']!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False,
        timeout=60, env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert "tokens/s per device" in done.stdout


def test_settings_that_fit_no_mesh_of_the_devices_are_left_to_the_search(folder, capsys):
    assert main(["plan", *SMALL, "--devices", "2", "--mesh.pipe", "8", "--top", "1"]) == 0
    assert "is no mesh of 2 devices" in capsys.readouterr().out


REFUSED = {
    "--hardware h1000": "--hardware h1000 is not known",
    "--hardware none.yaml": "cannot be read",
    "--devices 0": "--devices 0: must be above 0",
    "--top 0": "--top 0: must be above 0",
    "--tokens -1": "--tokens -1.0: must be above 0",
    "--price -1": "--price -1.0: must be above 0",
    "--to plan.txt": "a recipe is a YAML file",
    "--to missing/plan.yaml": "missing is no folder",
    "--draw plan.gif": "use a name that ends in",
    "--draw missing/plan.svg": "missing is no folder",
    "--model.preset 7c": "7c",
    "--mesh.tensor 3 --devices 24": "mesh.tensor=3",
    "--schedule.name nosuch": "schedule 'nosuch' is not known",
    "--schedule.num_chunks 4096": "num_chunks=4096",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_bad_input_is_one_line(arguments, folder, capsys):
    assert main(["plan", *SMALL, *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert REFUSED[arguments] in error and error.count("\n") == 1


MODEL = ["--model.num_experts", "4", "--model.experts_per_token", "2"]
IMPOSSIBLE = {
    "more experts than there are": (["--model.num_experts", "4", "--model.experts_per_token", "9"],
                                    "experts_per_token=9; a router chooses"),
    "experts without a choice": (["--model.num_experts", "4"], "set both"),
    "experts of a gpt": ([*MODEL, "--model.family", "gpt"], "does not exist in family 'gpt'"),
    "adapters of experts": (
        [*MODEL, "--lora.rank", "4", "--lora.projections", "[gate]"], "experts have no adapters"
    ),
    "a leaf that is not there": (["--train.trainable", "[nothing.*]"], "fits no leaf of the model"),
}


@pytest.mark.parametrize("words, message", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_model_that_cannot_be_is_refused(folder, capsys, words, message):
    assert main(["plan", *words, "--hardware", "h100-80g", "--devices", "2"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_mesh_that_cannot_be_has_nothing_to_explain(folder, capsys):
    assert main(["plan", *SMALL, "--devices", "64", "--mesh.data", "1", "--search", "false"]) == 2
    error = capsys.readouterr().err
    assert "is no mesh of 64 devices" in error and "--mesh.pipe" in error
    assert error.count("\n") == 1


def test_a_custom_model_is_refused(folder, capsys):
    assert main(["plan", "--config", "gpu8_2.7b_32k", "--model.stage", "own:Stage"]) == 2
    error = capsys.readouterr().err
    assert "custom class" in error and error.count("\n") == 1


def test_nothing_is_written_where_nothing_fits(folder, capsys):
    command = ["plan", *SMALL, "--hardware", "t4-16g", "--model.num_layers", "64", "--devices", "1"]
    assert main([*command, "--to", "own.yaml"]) == 2
    printed = capsys.readouterr()
    assert "none of" in printed.out and "none fits" in printed.err
    assert not (folder / "own.yaml").exists()
