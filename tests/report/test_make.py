"""`make train`: the page comes last, and only after a run that went well."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = "{}.{}".format(*sys.version_info)


@pytest.fixture
def make(tmp_path):
    """Runs `make train` where `.venv` is installed and its Python only writes what it is given."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    commands = tmp_path / ".venv" / "bin"
    commands.mkdir(parents=True)
    python = commands / "python"
    python.write_text('#!/bin/sh\necho "$@" >> called\ntest "$2" = report || exit ${STATUS:-0}\n')
    python.chmod(0o755)
    for stamp in ("new", "run"):
        (commands.parent / f".{stamp}-{VERSION}-cpu").touch()

    def run(*arguments, status=0):
        here = Path(sys.executable)  # by its name: the folder may have a space
        environment = {"PATH": f"{here.parent}:/usr/bin:/bin", "STATUS": str(status)}
        done = subprocess.run(
            ["make", "train", f"PYTHON={here.name}", "ACCELERATOR=cpu", *arguments],
            cwd=tmp_path, env=environment, timeout=60, capture_output=True, text=True,
        )  # fmt: skip
        return done.returncode, (tmp_path / "called").read_text().splitlines()

    return run


def test_a_run_is_followed_by_its_page_with_the_same_settings(make):
    given = "--config mesh_configs/default.yaml --mesh.platform cpu --train.output_dir runs/x"
    status, called = make("ARGS=--train.output_dir runs/x")
    assert status == 0
    assert called == [f"train.py {given}", f"train.py report {given}"]


def test_a_run_that_fails_fails_make_and_has_no_page(make):
    status, called = make(status=2)
    assert status != 0 and len(called) == 1


@pytest.mark.parametrize("word", ["--help", "--print_config", "evaluate"])
def test_what_is_no_run_has_no_page(make, word):
    status, called = make(f"ARGS={word}")
    assert status == 0 and len(called) == 1
