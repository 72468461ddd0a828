"""Notices that a run does not get on, says where each process stands, and ends it with a status.

A compiled step that waits for a dead or stalled device waits forever, in every process that depends
on it. So a thread looks every second at

- how long this process' step has taken, against the running median;
- what the other processes said of themselves last: each says every second where it is, through
  JAX's coordination service. One that is silent is dead, stopped or cut off, and all others end.

A process that goes tells the reason first, so that the others name it at once.
"""

import faulthandler
import json
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from jax.errors import JaxRuntimeError

from seq1f1b_jax.config import UserError, WatchdogConfig
from seq1f1b_jax.distributed import Group
from seq1f1b_jax.distributed.exits import LOST_PEER, STALLED, USER_ERROR
from seq1f1b_jax.pipeline.trace import LastActions
from seq1f1b_jax.training.checkpoint_folder import CHECKPOINTS, committed_steps
from seq1f1b_jax.training.files import replace_file

RECENT_STEPS = 50
LOOK_SECONDS = 1.0
NOTE = "alive"
FOLDER = "watchdog"


@dataclass(frozen=True)
class Standing:
    """Where a process is.

    Attributes:
      process: its index.
      step: the step it works on, counted from 0; -1 before the first.
      cell: the action that each of its stages finished last, where they are followed.
      gone: why it ended, once it has.
      status: with which the others end then.
      beat: counts what it said.
    """

    process: int
    step: int = -1
    cell: str = ""
    gone: str = ""
    status: int = LOST_PEER
    beat: int = 0

    def __str__(self) -> str:
        where = f"in step {self.step}" if self.step >= 0 else "before its first step"
        return where + (f", last finished {self.cell}" if self.cell else "")


class Watchdog:
    """Watches the steps of this process, and the other processes.

    Args:
      config: what counts as stalled.
      group: the processes.
      folder: of the run; `watchdog/` in it gets the diagnosis.
      silence: seconds without a word after which a process counts as lost.
      end: ends the process with a status; tests give another one.

    Example:
      >>> from pathlib import Path
      >>> from seq1f1b_jax.config import WatchdogConfig
      >>> from seq1f1b_jax.distributed import ALONE
      >>> with Watchdog(WatchdogConfig(), ALONE, Path("runs/x"), silence=30) as watchdog:
      ...     watchdog.begin(0)  # a step that gets on
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
        self._heard: dict[int, tuple[Standing, float]] = {}
        self._beat = 0
        self._refused = False
        self.actions = LastActions()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._group.count > 1:
            self._say()  # at once: who has never spoken cannot be missed
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, _: Any) -> None:
        """Stop watching; a process that fails tells the others why, or whom it has lost."""
        self._refused = isinstance(error, UserError)
        self._stop.set()
        self._thread.join()
        if self._group.count == 1 or error is None:
            return
        if isinstance(error, JaxRuntimeError):
            self._blame(error)
        with suppress(JaxRuntimeError):  # process 0 is gone: nobody is left to be told
            self._say(
                gone=(not self._refused) * f"{kind.__name__}: " + _first_line(error),
                status=USER_ERROR if self._refused else LOST_PEER,
            )

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
        """Work in which devices of all processes exchange: if that fails, who is gone is named.

        At once: what comes after, such as a save under way, would wait for that process too.
        """
        try:
            yield
        except JaxRuntimeError as error:
            if self._group.count > 1:
                self._blame(error)
            raise

    @property
    def limit(self) -> float:
        """Seconds that the step may take."""
        if not self._steps:
            return self._config.first_seconds
        median = statistics.median(self._steps)
        return max(self._config.min_seconds, self._config.factor * median)

    def standing(self, **changes: Any) -> Standing:
        """Where this process is."""
        last = self.actions.last
        cell = ", ".join(f"{last[stage].text(stage)} on stage {stage}" for stage in sorted(last))
        self._beat += 1
        return Standing(self._group.index, self._step, cell, beat=self._beat, **changes)

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._stop.wait(LOOK_SECONDS):
            now = time.monotonic()
            if self._began is not None and now - looked > 5 * LOOK_SECONDS:
                self._began += now - looked  # this process itself was stopped for a while
            asleep, looked = now - looked > 5 * LOOK_SECONDS, now
            if self._group.count > 1:
                self._listen(now, fresh=asleep)
            began = self._began
            if self._config.enabled and began is not None and now - began > self.limit:
                self._stalled(now - began)

    def _listen(self, now: float, *, fresh: bool) -> None:
        """Tell and hear how everybody is; end if somebody is gone, or has been silent too long."""
        try:
            self._say()
            told = self._group.told(NOTE)
        except JaxRuntimeError as error:
            if not self._stop.is_set():
                self._lost(0, f"its coordination service does not answer ({_first_line(error)})")
            return
        for index, text in told.items():
            standing = Standing(**json.loads(text))
            before = self._heard.get(index)
            if fresh or before is None or before[0].beat != standing.beat:
                self._heard[index] = (standing, now)
            if standing.gone and index != self._group.index:
                self._follow(standing)
            if now - self._heard[index][1] > self._silence:
                self._lost(index, f"it has been silent for {self._silence:.0f} s")

    def _blame(self, error: JaxRuntimeError) -> None:
        """After a failed exchange: see who does not speak any more, and end as one who lost it."""
        deadline = time.monotonic() + 5 * LOOK_SECONDS
        while time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
            self._listen(time.monotonic(), fresh=False)
        others = {index: it for index, it in self._heard.items() if index != self._group.index}
        if not others:
            return
        index, (standing, heard) = min(others.items(), key=lambda item: item[1][1])
        if time.monotonic() - heard > 3 * LOOK_SECONDS:
            self._lost(index, f"it stopped speaking, and an exchange failed: {standing}")

    def _say(self, **changes: Any) -> None:
        self._group.tell(NOTE, json.dumps(asdict(self.standing(**changes))))

    def _lost(self, index: int, reason: str) -> None:
        """Another process is gone, so this one ends."""
        standing = self._heard.get(index, (None, 0.0))[0]
        where = f", last heard of {standing}" if standing else ""
        self._tell(
            f"process {index} is lost{where}: {reason}; this one, {self.standing()}, ends with "
            f"status {LOST_PEER}; {self._saved()}"
        )
        self._end(LOST_PEER)

    def _follow(self, gone: Standing) -> None:
        """Another process has told why it ends, so this one ends."""
        if gone.status != USER_ERROR:
            self._lost(gone.process, f"it ended: {gone.gone}")
        self._stop.wait(LOOK_SECONDS)
        if self._refused:
            return  # the same refusal came here, and this process tells it itself
        self._tell(f"process {gone.process} was refused, so this one ends too: {gone.gone}")
        self._end(USER_ERROR)

    def _stalled(self, seconds: float) -> None:
        """A step takes far too long: say where everybody is, write stacks, end."""
        own = self.standing()
        self._tell(
            f"step {self._step} has taken {seconds:.0f} s, the limit is {self.limit:.0f} s (median "
            f"{statistics.median(self._steps or [0]):.2f} s); this process is {own}"
        )
        others = {i: standing for i, (standing, _) in self._heard.items() if i != own.process}
        for index, standing in sorted(others.items()):
            self._tell(f"process {index} is {standing}, as last heard of")
        path = self._folder / f"process-{own.process}.json"
        stacks = path.with_suffix(".stacks.txt")
        with suppress(OSError, UserError):  # a full disk keeps nobody from its end
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_file(path, json.dumps(asdict(own) | {"time": time.time()}).encode())
            stacks.unlink(missing_ok=True)
            with stacks.open("x") as file:
                faulthandler.dump_traceback(file, all_threads=True)
        faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
        self._tell(
            f"stacks are in {stacks}; ending with status {STALLED}; {self._saved()}"
        )
        self._end(STALLED)

    def _saved(self) -> str:
        """What a new start begins with."""
        steps = committed_steps(self._folder.parent / CHECKPOINTS)
        if not steps:
            return "nothing was saved yet: the same command begins anew"
        return f"the same command continues after step {steps[-1]}"

    def _tell(self, text: str) -> None:
        who = f"[process {self._group.index} of {self._group.count}] " * (self._group.count > 1)
        with suppress(OSError):  # a reader that left keeps no process from its end
            print(f"watchdog: {who}{text}", file=sys.__stderr__, flush=True)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:300]
