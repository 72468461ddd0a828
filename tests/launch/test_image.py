"""The image: its file passes the linter, and what it runs works in a clean folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.journey.clone import LEFT_OUT

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, in order: `("RUN", "pip install ...")`."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_what_a_machine_has_made_stays_out_of_the_image():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv*", "runs"} <= set(ignored)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="needs hadolint")
def test_the_linter_has_nothing_to_say():
    done = subprocess.run(
        ["hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.slow
def test_its_commands_install_and_start_in_a_clean_folder(tmp_path):
    app, venv = tmp_path / "app", tmp_path / "venv"
    shutil.copytree(ROOT, app, ignore=LEFT_OUT)
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=300)
    keep = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    environment = keep | {"PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "EXTRAS": ""}
    commands = [text for name, text in instructions() if name == "RUN"]
    assert len(commands) == 1
    commands.append("python train.py --help")  # what CMD runs
    assert ("CMD", '["python", "train.py", "--help"]') in instructions()
    for command in commands:
        done = subprocess.run(
            ["bash", "-euc", command], cwd=app, env=environment, capture_output=True, text=True,
            timeout=1200, check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "--train.output_dir" in done.stdout
