#!/usr/bin/env python3
"""Stands in for srun: starts tasks, ends the others when one fails, reports as srun 23.11 does.

As its sources have it (src/srun/launch.c): with --kill-on-bad-exit the first task that fails has
all others sent SIGTERM, then SIGKILL; every task that exited is told with its status; the status of
srun is the highest signal of any task plus 128, else the highest exit status.
"""

import json
import os
import signal
import subprocess
import sys
import time

KILL_WAIT_SECONDS = 1

first = next(i for i, word in enumerate(sys.argv[1:], 1) if not word.startswith("--"))
options, command = sys.argv[1:first], sys.argv[first:]
with open("calls.jsonl", "a") as calls:
    calls.write(json.dumps(["srun", *sys.argv[1:]]) + "\n")
number = sum('"srun"' in line for line in open("calls.jsonl"))
does = os.environ["TASKS"].split(";")[number - 1].split(",")
step = {"SLURM_STEP_ID": str(number), "SLURM_NTASKS": str(len(does))}
tasks = {
    index: subprocess.Popen(command, env={**os.environ, **step, "DO": do})
    for index, do in enumerate(does)
}


def tell(index, text):
    print(f"srun: error: gpu{index}: task {index}: {text}", file=sys.stderr, flush=True)


exits, signals, deadline = [0], [], None
while tasks:
    for index, code in {i: task.poll() for i, task in tasks.items()}.items():
        if code is None:
            continue
        del tasks[index]
        if code > 0:
            exits.append(code)
            tell(index, f"Exited with exit code {code}")
        elif code < 0:
            signals.append(-code)
            if deadline is None or code != -signal.SIGTERM:
                tell(index, signal.strsignal(-code))
        if code and deadline is None and "--kill-on-bad-exit=1" in options:
            print("srun: Terminating StepId=7.0", file=sys.stderr)
            deadline = time.monotonic() + KILL_WAIT_SECONDS
            for task in tasks.values():
                task.send_signal(signal.SIGTERM)
    if deadline and time.monotonic() > deadline:
        for task in tasks.values():
            task.kill()
    time.sleep(0.005)
sys.exit(128 + max(signals) if signals else max(exits))
