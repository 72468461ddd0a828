"""Folders and files as people name them, in every command; all ways of naming one mean the same."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seq1f1b_jax import mesh_configs
from seq1f1b_jax.cli import parse
from seq1f1b_jax.data.__main__ import main as data
from seq1f1b_jax.explore.__main__ import main as schedule
from seq1f1b_jax.launch.__main__ import main as launch
from seq1f1b_jax.training.reports.goodput import main as goodput
from tests.run.tiny import Child, command_line, losses, run

RECIPES = Path(mesh_configs.__file__).parent


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with a space and an umlaut, the working directory below it, and a link."""
    folder = tmp_path / "the höme"
    (folder / "here" / "deep").mkdir(parents=True)
    (folder / "link").symlink_to("here")
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder / "here")
    return folder


FORMS = {
    "relative": "runs/x",
    "with a dot": "./runs/x",
    "with a slash": "runs/x/",
    "upwards": "../here/runs/x",
    "home": "~/here/runs/x",
    "link": "../link/runs/x",
    "absolute": "{home}/here/runs/x",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("command", ["train", "evaluate", "generate", "export"])
def test_every_form_is_the_same_place(home, command, form):
    text = form.format(home=home)
    words = [command, "--train.output_dir", text, "--data.source", text, "--schedule.plan", text]
    given = parse([*words, *["--to", text] * (command == "export")], recipes=RECIPES)
    config = given.config
    paths = [config.train.output_dir, config.data.source, config.schedule.plan]
    if command == "export":
        paths.append(given.options.to)
    assert all(Path(path).is_absolute() for path in paths)
    assert {Path(path).resolve() for path in paths} == {home / "here" / "runs" / "x"}


def tiny(folder, text, **changes):
    return command_line(folder, text, mesh__pipe=1, schedule__num_chunks=1, **changes)


def test_one_run_by_many_names(home, source, monkeypatch, capsys, cache):
    """Train, resume, evaluate, generate, export, prepare, show, draw, save, launch, goodput."""
    shutil.copy(source, "ein text.txt")
    first = run(*tiny("runs/ü x/", "ein text.txt", train__num_steps=2))
    assert (first.status, first.err) == (0, "")
    assert "metrics are in runs/ü x\n" in first.out
    again = run(*tiny("~/here/runs/ü x", "~/here/ein text.txt", train__num_steps=3))
    assert "continuing ~/here/runs/ü x after step 2" in again.out
    assert sorted(losses(home / "here/runs/ü x")) == [0, 1, 2]

    monkeypatch.chdir("deep")
    for command in (["evaluate"], ["generate", "--num_tokens=2"], ["export", "--to", "~/out put"]):
        done = run(*command, "--train.output_dir", "../../link/runs/ü x")
        assert done.status == 0 and "error" not in done.err, command
    assert "step 3 is in ~/out put: " in done.out
    assert (home / "out put" / "model.safetensors").is_file()
    taken = run("export", "--to", "~/out put/", "--train.output_dir", "../runs/ü x")
    assert taken.status == 2 and taken.err.startswith("error: ~/out put "), taken.err

    monkeypatch.chdir("..")
    assert data(["prepare", "./ein text.txt", "--to", "~/tök ens/", "--processes=1"]) == 0
    assert data(["show", "../tök ens"]) == 0
    sizes = ["--ranks=2", "--microbatches=2"]
    assert schedule(["1f1b", *sizes, "--draw", "~/ein bild.svg", "--save=../p län.csv"]) == 0
    assert schedule(["~/p län.csv"]) == 0
    assert (home / "ein bild.svg").is_file()
    (home / "here" / "child.py").write_text("print('here')")
    command = [sys.executable, "-m", "seq1f1b_jax.launch", "--processes=1", "--log-dir", "~/log s/"]
    environment = os.environ | {"PYTHONPATH": str(RECIPES.parent)}
    subprocess.run([*command, "--", "child.py"], env=environment, check=True, timeout=60)
    assert "here" in (home / "log s" / "process-0.log").read_text()
    capsys.readouterr()
    assert goodput(["~/link/runs/ü x/"]) == 0
    assert "goodput" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (data, ["show", "a\nb"]),
        (data, ["prepare", "a\nb", "--to", "x"]),
        (schedule, ["a\nb.csv"]),
        (schedule, ["1f1b", "--ranks=2", "--microbatches=2", "--draw", "no\nfolder/x.svg"]),
        (goodput, ["a\nb"]),
        (launch, ["--processes=1", "--log-dir", "file\nx/y", "--", "train.py"]),
    ],
    ids=["show", "prepare", "schedule", "draw", "goodput", "launch"],
)
def test_a_line_break_in_a_path_stays_on_the_line(home, command, arguments, capsys):
    Path("file\nx").write_text("not a folder")
    assert command(arguments) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1 and "\\n" in told


@pytest.mark.parametrize("setting", ["data.source", "model.source", "schedule.plan"])
def test_a_line_break_in_a_setting_stays_on_the_line(home, setting):
    done = run("train", f"--{setting}=a\nb", "--mesh.pipe=1")
    assert done.status == 2
    assert len(done.err.splitlines()) == 1 and "a\\nb" in done.err


def test_a_folder_that_is_removed_while_it_runs_is_told_in_a_line(home, source, cache):
    arguments = tiny(
        "runs/gone", source, train__num_steps=100_000, checkpoint__every=50, logging__progress=False
    )
    Path("runs").mkdir()
    child = Child(cache, [str(a) for a in arguments], home / "here" / "runs" / "gone")
    try:
        child.wait_for_step(3)
        os.rename("runs", "away")
        assert child.end() == 2, child.told()
    finally:
        child.kill()
    told = (home / "here" / "away" / "gone.log").read_text(encoding="utf-8")
    assert told.splitlines()[-1].startswith("error: ") and "runs/gone" in told.splitlines()[-1]
    assert "Traceback" not in told
