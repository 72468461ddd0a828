"""Notices that a run hangs, reports where each process is, and ends it with a status.

A compiled step that waits for a dead or stalled device waits forever, in every process that depends
on it. So a thread looks every second at

- how long this process' step has taken, against the running median;
- the last heartbeat of each other process, and when it came (`heartbeat.py`). One that is silent is
  dead, stopped or cut off, and all others end.

A process that ends publishes the reason first, so that the others name it at once.
"""

import faulthandler
import json
import os
import statistics
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from jax.errors import JaxRuntimeError

from seq1f1b_jax.config import UserError, WatchdogConfig
from seq1f1b_jax.distributed import Group
from seq1f1b_jax.distributed.exits import LOST_PEER, STALLED, USER_ERROR
from seq1f1b_jax.distributed.output import otherwise
from seq1f1b_jax.host.files import replace_file
from seq1f1b_jax.pipeline.executor.trace import LastActions
from seq1f1b_jax.training.checkpoint.folder import CHECKPOINTS, committed_steps
from seq1f1b_jax.training.faults.heartbeat import Heartbeat, Heartbeats, first_line

RECENT_STEPS = 50
LOOK_SECONDS = 1.0
ASLEEP_SECONDS = 5 * LOOK_SECONDS
"""A check that is this late means that this process itself was stopped."""
BLAME_SECONDS = 5 * LOOK_SECONDS
LINGER_SECONDS = 4 * LOOK_SECONDS
"""How far two processes may be apart in noticing that a third one is silent."""
DESCRIBE_SECONDS = 10 * LOOK_SECONDS
FOLDER = "watchdog"


class Watchdog:
    """Watches the steps of this process, and the other processes.

    Args:
      config: what counts as stalled.
      group: the processes.
      folder: of the run; `watchdog/` in it gets the diagnosis.
      silence: seconds without a heartbeat after which a process counts as lost.
      end: ends the process with a status; tests give another one.

    Example:
      >>> from pathlib import Path
      >>> from seq1f1b_jax.config import WatchdogConfig
      >>> from seq1f1b_jax.distributed import ALONE
      >>> with Watchdog(WatchdogConfig(), ALONE, Path("runs/x"), silence=30) as watchdog:
      ...     watchdog.begin(0)  # a step that makes progress
      ...     watchdog.finish()
    """

    def __init__(
        self, config: WatchdogConfig, group: Group, folder: Path, *, silence: float,
        end: Callable[[int], NoReturn] = os._exit,
    ):
        self._config, self._group, self._folder = config, group, folder / FOLDER
        self._silence, self._end = silence, end
        self._steps: deque[float] = deque(maxlen=RECENT_STEPS)
        self._step, self._began = -1, None
        self._refused = False
        self._ending = threading.Lock()  # one reason is reported, the first
        self.actions = LastActions()
        self._heartbeats = Heartbeats(group, self.heartbeat)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._group.count > 1:
            self._heartbeats.start()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, _: Any) -> None:
        """Stop watching; a process that fails publishes why, or whom it has lost."""
        self._refused = isinstance(error, UserError)
        if isinstance(error, JaxRuntimeError) and self._group.count > 1:
            self._blame()
        self._stop.set()
        self._thread.join()
        if self._group.count > 1:
            self._heartbeats.stop(error and self._last_word(error))

    def begin(self, step: int) -> None:
        """The step begins now."""
        self._step, self._began = step, time.monotonic()

    def finish(self) -> None:
        """It is done."""
        if self._began is not None:
            self._steps.append(time.monotonic() - self._began)
        self._began = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Work inside a step that may take its time, such as a compilation; then it begins anew."""
        self._began = None
        yield
        self._began = time.monotonic()

    @contextmanager
    def exchanges(self) -> Iterator[None]:
        """Work in which devices of all processes exchange: a failure names the lost process.

        Immediately: what comes after, such as a save under way, would wait for that process too.
        """
        try:
            yield
        except JaxRuntimeError:
            if self._group.count > 1:
                self._blame()
            raise

    @property
    def limit(self) -> float:
        """Seconds that the step may take."""
        if not self._steps:
            return self._config.first_seconds
        median = statistics.median(self._steps)
        return max(self._config.min_seconds, self._config.factor * median)

    def heartbeat(self, **changes: Any) -> Heartbeat:
        """Where this process is."""
        last = self.actions.last
        cell = ", ".join(f"{last[stage].text(stage)} on stage {stage}" for stage in sorted(last))
        return Heartbeat(self._group.index, self._step, cell, **changes)

    def _last_word(self, error: BaseException) -> Heartbeat:
        if self._refused:
            return self.heartbeat(gone=first_line(error), status=USER_ERROR)
        return self.heartbeat(gone=f"{type(error).__name__}: {first_line(error)}")

    def _watch(self) -> None:
        try:
            self._look_every_second()
        finally:
            if not self._stop.is_set():  # a defect of ours: nobody would notice a stall any more
                traceback.print_exc(file=sys.__stderr__)
                self._leave(STALLED)

    def _look_every_second(self) -> None:
        looked = time.monotonic()
        while not self._stop.wait(LOOK_SECONDS):
            now = time.monotonic()
            if now - looked > ASLEEP_SECONDS:
                self._heartbeats.forgive(now)
                if self._began is not None:
                    self._began += now - looked
            looked = now
            if self._group.count > 1:
                self._look(now)
            began = self._began
            if self._config.enabled and began is not None and now - began > self.limit:
                self._stalled(now - began)

    def _look(self, now: float) -> None:
        """End if a process is gone, or has been silent too long."""
        if self._heartbeats.broken:
            self._lost(0, f"its coordination service does not answer ({self._heartbeats.broken})")
        for index in range(self._group.count):
            beat = self._heartbeats.latest.get(index)
            if beat and beat.gone and index != self._group.index:
                self._follow(beat)
            if self._heartbeats.silence(index, now) > self._silence:
                self._lost(index, f"it has been silent for {self._silence:.0f} s")

    def _blame(self) -> None:
        """After a failed exchange: see who has gone silent, and end as one who lost it."""
        deadline = time.monotonic() + BLAME_SECONDS
        while time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
            self._look(time.monotonic())
        now = time.monotonic()
        others = {i: self._heartbeats.silence(i, now) for i in self._heartbeats.latest}
        others.pop(self._group.index, None)
        index = max(others, key=others.__getitem__, default=None)
        if index is not None and others[index] > 3 * LOOK_SECONDS:
            self._lost(index, "its heartbeats have stopped, and an exchange has failed")

    def _lost(self, index: int, reason: str) -> None:
        """Another process is gone, so this one ends."""
        beat = self._heartbeats.latest.get(index)
        where = f", last heard of {beat}" if beat else ""
        with self._ending, self._ends_with(LOST_PEER):
            self._write(
                f"process {index} is lost{where}: {reason}; this one, {self.heartbeat()}, ends "
                f"with status {LOST_PEER}; {self._saved()}"
            )

    def _follow(self, gone: Heartbeat) -> None:
        """Another process has published why it ends, so this one ends."""
        if gone.status != USER_ERROR:
            self._lost(gone.process, f"it ended: {gone.gone}")
        self._stop.wait(LOOK_SECONDS)
        if self._refused:
            return  # the same refusal came here, and this process reports it itself
        with self._ending, self._ends_with(USER_ERROR):
            self._write(f"process {gone.process} was refused, so this one ends too: {gone.gone}")

    def _stalled(self, seconds: float) -> None:
        """A step takes far too long: report where everybody is, write stacks, end."""
        with self._ends_with(STALLED):
            self._describe_stall(seconds)

    def _describe_stall(self, seconds: float) -> None:
        own = self.heartbeat()
        self._write(
            f"step {self._step} has taken {seconds:.0f} s, the limit is {self.limit:.0f} s (median "
            f"{statistics.median(self._steps or [0]):.2f} s); this process is {own}"
        )
        for index, beat in self._heartbeats.latest.items():
            if index != own.process:
                self._write(f"process {index} is {beat}, as last heard of")
        path = self._folder / f"process-{own.process}.json"
        stacks = path.with_suffix(".stacks.txt")
        with suppress(OSError, UserError):  # a full disk keeps no process from ending
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_file(path, json.dumps(asdict(own) | {"time": time.time()}).encode())
            stacks.unlink(missing_ok=True)
            with stacks.open("x") as file:
                faulthandler.dump_traceback(file, all_threads=True)
        faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
        self._write(f"stacks are in {stacks}; ending with status {STALLED}; {self._saved()}")

    @contextmanager
    def _ends_with(self, status: int) -> Iterator[None]:
        """Describe what happened, then end; also if that fails or a file system does not answer."""
        try:
            with otherwise(DESCRIBE_SECONDS, lambda: self._leave(status)):
                yield
        finally:
            self._leave(status)

    def _leave(self, status: int) -> None:
        """End; process 0 a little later, or the others could not publish their reason."""
        self._stop.set()
        if self._group.count > 1 and self._group.index == 0:
            time.sleep(LINGER_SECONDS)
        self._end(status)

    def _saved(self) -> str:
        """What a new start begins with."""
        try:
            steps = committed_steps(self._folder.parent / CHECKPOINTS)
        except OSError as error:
            return f"its checkpoints cannot be listed ({error.strerror})"
        if not steps:
            return "nothing was saved yet: the same command starts over"
        return f"the same command continues after step {steps[-1]}"

    def _write(self, text: str) -> None:
        who = f"[process {self._group.index} of {self._group.count}] " * (self._group.count > 1)
        with suppress(OSError):  # a closed output keeps no process from ending
            print(f"watchdog: {who}{text}", file=sys.__stderr__, flush=True)
