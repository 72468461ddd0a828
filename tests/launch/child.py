"""Stands in for train.py: writes, waits and ends as it is told.

Arguments `--do.I WORD ...` say what process I does, one word after another; `--all WORD ...` is for
those without words of their own.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def value(name):
    return sys.argv[sys.argv.index(name) + 1]


def words(index):
    name = f"--do.{index}" if f"--do.{index}" in sys.argv else "--all"
    return value(name).split() if name in sys.argv else []


def starts(index):
    seen = folder / f"seen-{index}.jsonl"
    return len(seen.read_text().splitlines()) if seen.exists() else 0


def leave(number, frame):
    print("saved after", signal.Signals(number).name, flush=True)
    sys.exit(0)


def hear(number, frame):
    (folder / f"heard-{index}-{signal.Signals(number).name}").touch()


index = int(value("--distributed.process_id"))
folder = Path(value("--train.output_dir") if "--train.output_dir" in sys.argv else ".")
with open(folder / f"seen-{index}.jsonl", "a") as seen:
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen.write(json.dumps({"pid": os.getpid(), "args": sys.argv[1:], "gpus": variable}) + "\n")
start = starts(index)
print(f"[Gloo] Rank {index} is connected", flush=True)

for word in words(index):
    kind, _, text = word.partition("=")
    if kind == "out":
        print(text)
    elif kind == "err":
        print(text.replace("_", " "), file=sys.stderr)
    elif kind == "kill":
        os.kill(os.getpid(), getattr(signal, text))
    elif kind == "kill-at-first" and start == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "exit":
        sys.exit(int(text))
    elif kind == "polite":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, leave)
    elif kind == "deaf":
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, hear)
    elif kind == "wait":
        (folder / f"waiting-{index}").touch()
        time.sleep(60)
    elif kind == "pause":
        time.sleep(float(text))
    elif kind == "until":  # another one waits
        while not (folder / f"waiting-{text}").exists():
            time.sleep(0.01)
    elif kind == "meet":  # another one has been started as often
        while starts(text) < start:
            time.sleep(0.01)
    elif kind == "steps":  # one more at every start
        with open(folder / "metrics.jsonl", "a") as metrics:
            metrics.write(json.dumps({"step": start, "loss": 1.0}) + "\n")
    elif kind == "place":
        step, tick = text.split(",")
        (folder / "watchdog").mkdir(exist_ok=True)
        place = {"process": index, "step": int(step), "tick": int(tick), "cell": "F2.1"}
        name = folder / "watchdog" / f"process-{index}.json"
        name.write_text(json.dumps(place | {"time": time.time()}))
    elif kind == "grandchild":
        started = subprocess.Popen(["sleep", "60"])
        (folder / f"grandchild-{index}").write_text(str(started.pid))
