"""The wheel holds one package, recipes and command in it, and runs elsewhere."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SHIPPED = ("seq1f1b_jax", "models", "mesh_configs")
FILES = ("pyproject.toml", "README.md", "LICENSE", "train.py")


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_wheel_runs_outside_the_checkout(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in SHIPPED:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore, symlinks=True)
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    pip("wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(source))
    (wheel,) = tmp_path.glob("seq1f1b_jax-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"seq1f1b_jax"}
    inside = ("mesh_configs/default.yaml", "models/llama.py", "train.py")
    assert {f"seq1f1b_jax/{name}" for name in inside} <= set(names)

    pip("install", "--no-deps", "--target", str(target), str(wheel))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "models.py").write_text("raise SystemExit('a script of the user')")
    done = subprocess.run(
        [sys.executable, str(target / "bin" / "seq1f1b-train"), "--config", "single_device",
         "--print_config"],
        cwd=outside,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert yaml.safe_load(done.stdout)["train"]["output_dir"] == "runs/single_device"
