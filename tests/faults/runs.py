"""A tiny run in processes of its own, to be killed, stopped and resumed by the tests here."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from seq1f1b_jax.training.checkpoint.read import find_checkpoint, open_leaf
from tests.quick_xla import QUICK_FLAGS

ROOT = Path(__file__).parents[2]
STEPS, EVERY = 16, 4
SETTINGS = {
    "train.num_steps": STEPS, "checkpoint.every": EVERY, "checkpoint.keep": 9,
    "train.eval_sequences": 4, "train.sample_tokens": 0, "model.preset": "null",
    "model.num_layers": 4, "model.model_dim": 16, "model.num_heads": 4, "model.mlp_dim": 32,
    "data.seq_len": 64, "data.source": "README.md", "data.eval_fraction": 0.1,
    "data.microbatch_size": 2, "schedule.num_microbatches": 2, "schedule.num_chunks": 2,
    "schedule.block": 8, "optimizer.warmup_steps": 0, "mesh.data": 2, "mesh.pipe": 2,
    "logging.progress": "false",
}  # fmt: skip
PATIENCE_SECONDS = 240
BOUND_SECONDS = 60
"""In which all processes have to end once one has died."""


def arguments(folder: Path, **changes) -> list[str]:
    """Of `train.py`; `mesh__pipe=4` changes a setting."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    settings = SETTINGS | {"train.output_dir": folder, "train.compile_cache": cache(folder)} | named
    return ["train.py", *(part for name, v in settings.items() for part in (f"--{name}", str(v)))]


def cache(folder: Path) -> Path:
    """Compiled programs, shared by the runs of one test session: a start is then seconds."""
    return folder.parent / "programs"


class Run:
    """A launcher with its processes.

    Args:
      folder: of the run.
      processes: how many.
      restarts: how often the launcher may start again.
      changes: settings that differ from `SETTINGS`.
    """

    def __init__(self, folder: Path, *, processes: int = 4, restarts: int = 0, **changes):
        self.folder, self.processes = folder, processes
        self.errors = folder.with_suffix(".err")
        command = [sys.executable, "-m", "seq1f1b_jax.launch", "--processes", str(processes)]
        command += ["--restarts", str(restarts), "--", *arguments(folder, **changes)]
        with folder.with_suffix(".out").open("ab") as out, self.errors.open("ab") as errors:
            self.launcher = subprocess.Popen(
                command, cwd=ROOT, stdout=out, stderr=errors, env=environment()
            )

    def wait_for(self, found, *, what: str):
        """What `found()` returns once it is not None; fails if the run ends before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if (value := found()) is not None:
                return value
            assert self.launcher.poll() is None, f"ended before {what}: {self.said}"
            time.sleep(0.01)
        raise AssertionError(f"waited {PATIENCE_SECONDS} s for {what}: {self.said}")

    def wait_for_step(self, step: int) -> None:
        """Return once that many steps are finished; the next one has begun."""
        self.wait_for(lambda: len(losses(self.folder)) >= step or None, what=f"step {step}")

    def pid(self, index: int) -> int:
        """Of one of the processes."""
        return self.wait_for(lambda: child(self.launcher.pid, index), what=f"process {index}")

    def end(self, *, seconds: float = PATIENCE_SECONDS) -> int:
        """The launcher's status, once it has ended."""
        try:
            return self.launcher.wait(seconds)
        finally:
            self.close()

    def close(self) -> None:
        """Leave nothing behind, whatever a test has stopped or failed at."""
        for index in range(self.processes):
            if (pid := child(self.launcher.pid, index)) is not None:
                os.kill(pid, signal.SIGKILL)
        if self.launcher.poll() is None:
            self.launcher.kill()
        self.launcher.wait()

    @property
    def said(self) -> str:
        """Everything on standard error."""
        return self.errors.read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def environment() -> dict[str, str]:
    """One thread per process, machine code that compiles fast."""
    flags = f"{QUICK_FLAGS} --xla_cpu_multi_thread_eigen=false"
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}


def child(parent: int, index: int) -> int | None:
    """The process among a launcher's children that runs `--distributed.process_id index`."""
    try:
        pids = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split()
        for pid in map(int, pids):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if words[-3:-1] == ["--distributed.process_id", str(index)]:
                return pid
    except OSError:  # it has ended meanwhile
        pass
    return None


def losses(folder: Path) -> list[float]:
    """Training losses that the run has written, as they lie in `metrics.jsonl`."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record["loss"] for record in records if "loss" in record]


def final_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint, in the layout that is free of topology."""
    checkpoint = find_checkpoint(folder / "checkpoints", report=print)
    assert checkpoint.step == STEPS
    return {name: np.asarray(open_leaf(checkpoint, name)) for name in checkpoint.leaves}


def assert_same_run(folder: Path, other: Path) -> None:
    """Bit-equal: every loss, every parameter and every moment of the optimizer."""
    assert losses(folder) == losses(other) and len(losses(folder)) == STEPS
    ours, theirs = final_arrays(folder), final_arrays(other)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()]
    assert not different
