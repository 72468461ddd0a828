"""Goodput of a run whose processes are killed at random.

    python -m benchmarks.goodput                  # ten minutes, a kill every two minutes
    python -m benchmarks.goodput --minutes 3 --every 45

Two processes under the launcher train a small model; at random, about every `--every` seconds, one
of them gets SIGKILL. The launcher notices, ends the other and restarts both, which continue from
the newest checkpoint. The last line is JSON: `goodput`, the time of steps that counted over all
time, and where the rest went. Starting the interpreter, JAX and two processes takes as long at this
scale as at any other, so the figure shows the cost of a kill (`seconds_per_kill`) rather than the
goodput of a large run.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from seq1f1b_jax.training.reports.events import EVENTS
from seq1f1b_jax.training.reports.goodput import USEFUL, Goodput, measure

ENDLESS = 1_000_000
LAST_SECONDS = 60
SETTINGS = {
    "train.num_steps": ENDLESS, "train.eval_sequences": 4, "train.sample_tokens": 0,
    "checkpoint.every": 25, "model.preset": "null", "model.num_layers": 4, "model.model_dim": 64,
    "model.num_heads": 4, "model.mlp_dim": 256, "data.seq_len": 256, "schedule.block": 32,
    "schedule.num_microbatches": 4, "schedule.num_chunks": 2, "mesh.pipe": 2,
    "mesh.platform": "cpu", "logging.progress": "false",
}  # fmt: skip


def main() -> None:
    """Run, kill, and print the result."""
    options = parse()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary, "run")
        launcher = subprocess.Popen(command(folder, Path(temporary, "programs")))
        try:
            kills = disturb(launcher, folder, options, rng)
        finally:
            status = end(launcher)
        found = measure((folder / EVENTS).read_text(encoding="utf-8").splitlines())
    print(found)
    from benchmarks.common.report import finish  # loads JAX, so not during the run

    finish(summary(found, kills=kills, status=status), path=options.out)


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.goodput")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long; default 10")
    parser.add_argument(
        "--every", type=float, default=120.0, help="average seconds between kills; default 120"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the times and the victims")
    parser.add_argument("--folder", help="where to create the temporary folder of the run")
    parser.add_argument("--out", help="JSON file, such as benchmarks/results/goodput.json")
    return parser.parse_args()


def command(folder: Path, programs: Path) -> list[str]:
    """The launcher with its two processes."""
    settings = SETTINGS | {"train.output_dir": folder, "train.compile_cache": programs}
    launch = [sys.executable, "-m", "seq1f1b_jax.launch", "--processes", "2", "--restarts", "1000"]
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return [*launch, "--", "train.py", *words]


def disturb(
    launcher: subprocess.Popen, folder: Path, options: argparse.Namespace, rng: random.Random
) -> int:
    """Kill processes at random until the time is over; return how many."""
    began, kills = time.monotonic(), 0
    end = began + 60 * options.minutes
    due = began + options.every * rng.uniform(0.75, 1.25)
    while (now := time.monotonic()) < end and launcher.poll() is None:
        if now >= due and (pids := children(launcher.pid)):
            victim = rng.randrange(len(pids))
            print(f"benchmark: kill -9 of process {victim} after {now - began:.0f} s", flush=True)
            os.kill(pids[victim], signal.SIGKILL)
            kills, due = kills + 1, due + options.every * rng.uniform(0.75, 1.25)
        time.sleep(0.1)
    return kills


def end(launcher: subprocess.Popen) -> int:
    """Let the processes finish their step and save; the launcher's status."""
    launcher.send_signal(signal.SIGTERM)
    try:
        return launcher.wait(LAST_SECONDS)
    except subprocess.TimeoutExpired:
        launcher.kill()  # its processes die with it
        return launcher.wait()


def children(pid: int) -> list[int]:
    """Processes that a process has started, in that order (Linux)."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [*map(int, text.split())]


def summary(found: Goodput, *, kills: int, status: int) -> dict:
    """The JSON line."""
    tree = json.loads(found.json_line)
    lost = found.counted_seconds - found.seconds[USEFUL]
    return {
        "benchmark": "goodput", "kills": kills, "launcher_status": status,
        "seconds_per_kill": round(lost / (kills + 1), 1), **tree,
    }  # fmt: skip


if __name__ == "__main__":
    main()
