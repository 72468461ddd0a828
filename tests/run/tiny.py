"""Tiny runs: their settings, the command line in this process or in one that may be killed."""

import io
import json
import multiprocessing
import os
import re
import shutil
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import train
from seq1f1b_jax.training.checkpoint.read import find_checkpoint, load_state
from seq1f1b_jax.training.reports.metrics import read_metrics

SETTINGS = {
    "model.preset": "null", "model.num_layers": 4, "model.model_dim": 16, "model.num_heads": 2,
    "model.mlp_dim": 32, "data.seq_len": 32, "schedule.block": 8, "mesh.pipe": 2,
    "schedule.num_microbatches": 4, "schedule.num_chunks": 2, "train.num_steps": 6,
    "train.eval_sequences": 4, "train.sample_tokens": 0, "optimizer.warmup_steps": 0,
    "checkpoint.every": 2, "checkpoint.keep": 3,
}  # fmt: skip
COMPILER = {
    "jax_disable_most_optimizations": True,  # tiny programs: compiling them is most of the time
    "jax_persistent_cache_min_compile_time_secs": 0.0,
}


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


def command_line(folder, source, **changes) -> list[str]:
    """Arguments of a tiny run; `changes` name settings with `__` for the dot."""
    settings = SETTINGS | {"train.output_dir": folder, "data.source": source}
    given = {name.replace("__", "."): value for name, value in changes.items()}
    if "model.stage" in given:  # it has sizes of its own
        settings = {k: value for k, value in settings.items() if not k.startswith("model.")}
    settings |= given
    return [f"--{name}={value}" for name, value in settings.items()]


def run(*arguments) -> Outcome:
    """The command line in this process, which keeps its environment."""
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.dict(os.environ), redirect_stdout(out), redirect_stderr(err):
        status = train.main([str(argument) for argument in arguments])
    return Outcome(status, out.getvalue(), err.getvalue())


def compile_quickly(cache) -> None:
    """Compile with little optimization and once per program, whatever process it runs in."""
    for name, value in {**COMPILER, "jax_compilation_cache_dir": str(cache)}.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def _child(cache, arguments, log) -> None:
    with open(log, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    compile_quickly(cache)
    sys.exit(train.main(arguments))


class Child:
    """A run in a process of its own. A fork server has the imports done, so a start is cheap."""

    def __init__(self, cache, arguments, folder: Path):
        context = multiprocessing.get_context("forkserver")
        used = ("seq1f1b_jax.training.main", "seq1f1b_jax.inference.generate")
        context.set_forkserver_preload([__name__, *used])
        self.folder = folder
        self.log = folder.with_name(folder.name + ".log")
        self.process = context.Process(target=_child, args=(cache, arguments, self.log))
        self.process.start()

    def wait_for_step(self, step: int, *, seconds: float = 120) -> None:
        """Return once `step` steps are in the metrics."""
        deadline = time.monotonic() + seconds
        while num_steps(self.folder) < step:
            assert self.process.is_alive() and time.monotonic() < deadline, self.told()
            time.sleep(0.003)

    def end(self, number: int | None = None) -> int:
        """Send a signal if one is given; the exit status (negative: killed by that signal)."""
        if number is not None:
            os.kill(self.process.pid, number)
        self.process.join(timeout=120)
        return self.process.exitcode

    def kill(self) -> None:
        """End it if it still runs."""
        self.process.kill()
        self.process.join(timeout=120)

    def told(self) -> str:
        """What it wrote so far."""
        return self.log.read_text(encoding="utf-8")


def num_steps(folder: Path) -> int:
    """Steps that `metrics.jsonl` tells of."""
    return len(losses(folder))


def losses(folder: Path) -> dict[int, float]:
    """Loss of every step, bit for bit as it was written."""
    return _values(folder, "loss")


def held_out_losses(folder: Path) -> dict[int, float]:
    """Held-out loss by the step it came after."""
    return _values(folder, "held_out_loss")


def _values(folder: Path, name: str) -> dict[int, float]:
    path = Path(folder) / "metrics.jsonl"
    lines = read_metrics(path) if path.exists() else []
    found = [(line["step"], line[name]) for line in lines if name in line]
    assert len(dict(found)) == len(found), f"a step was told twice: {json.dumps(found)}"
    return dict(found)


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the committed checkpoints."""
    return sorted(int(path.name) for path in (Path(folder) / "checkpoints").glob("[0-9]*[0-9]"))


def saved_state(folder: Path) -> dict:
    """Arrays of the newest checkpoint by name; it must be undamaged."""
    checkpoint = find_checkpoint(Path(folder) / "checkpoints", report=pytest.fail)
    like = {name: _abstract(text) for name, text in checkpoint.leaves.items()}
    return load_state(checkpoint, like)


def _abstract(text: str) -> jax.ShapeDtypeStruct:
    dtype, shape = re.fullmatch(r"(\w+)\[([\d,]*)\]", text).groups()
    return jax.ShapeDtypeStruct([int(size) for size in shape.split(",") if size], dtype)


def copy_until(folder: Path, to: Path, step: int) -> Path:
    """A copy of a run as it was when it had saved `step`."""
    shutil.copytree(folder, to)
    for later in checkpoint_steps(to):
        if later > step:
            shutil.rmtree(to / "checkpoints" / f"{later:06d}")
    return to
