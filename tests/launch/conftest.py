"""The launcher as a process, with a stand-in for train.py."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("child.py")


class Launcher:
    """Starts `python -m seq1f1b_jax.launch` in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.running: list[subprocess.Popen] = []

    def start(self, *arguments, program=str(CHILD), **environment) -> subprocess.Popen:
        """Start it; words behind `--` go to the child."""
        arguments = [str(argument) for argument in arguments]
        cut = arguments.index("--")
        command = [sys.executable, "-m", "seq1f1b_jax.launch", *arguments[:cut], "--", program]
        process = subprocess.Popen(
            [*command, *arguments[cut + 1 :]], cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=clean_environment() | {"PYTHONPATH": str(ROOT)} | environment,
        )  # fmt: skip
        self.running.append(process)
        return process

    def run(self, *arguments, **keywords) -> tuple[int, str, str]:
        """Run it to its end: status, output, errors."""
        process = self.start(*arguments, **keywords)
        out, err = process.communicate(timeout=50)
        return process.returncode, out, err

    def seen(self, index: int) -> list[dict]:
        """What a child was started with, start by start."""
        lines = (self.folder / f"seen-{index}.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def wait_for(self, *names: str) -> None:
        """Return once files exist in the folder."""
        deadline = time.monotonic() + 30
        while not all((self.folder / name).exists() for name in names):
            assert time.monotonic() < deadline, f"{names} of {os.listdir(self.folder)}"
            time.sleep(0.01)

    def assert_gone(self, *pids: int) -> None:
        """No process of these is left (one that nobody has waited for counts as gone)."""
        deadline = time.monotonic() + 20
        while any(map(alive, pids)):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def clean_environment() -> dict[str, str]:
    """Without what decides devices."""
    ours = ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS", "XLA_FLAGS")
    return {name: text for name, text in os.environ.items() if name not in ours}


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def launcher(tmp_path):
    made = Launcher(tmp_path)
    yield made
    for process in made.running:
        process.kill()
        process.communicate()
