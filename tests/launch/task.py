#!/usr/bin/env python3
"""Stands in for Python with train.py in a task: `DO` says how it ends.

`2`: with that status; `late-2`: a moment later; `SIGKILL`: by that signal; `waits`: for a signal;
`lingers-2`: waits for SIGTERM and ends with that status all the same; `deaf`: until it is killed.
"""

import os
import signal
import sys
import time
from pathlib import Path

do, _, status = os.environ["DO"].rpartition("-")
if do == "lingers":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(int(status)))
if status == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
ready = f"ready-{os.environ['SLURM_STEP_ID']}-"
Path(f"{ready}{os.getpid()}").touch()
while len(list(Path().glob(f"{ready}*"))) < int(os.environ["SLURM_NTASKS"]):
    time.sleep(0.01)  # nobody ends before all have begun
if status.startswith("SIG"):
    os.kill(os.getpid(), getattr(signal, status))
if do == "late":
    time.sleep(0.3)
elif do == "lingers" or status in ("waits", "deaf"):
    time.sleep(30)
sys.exit(int(status))
