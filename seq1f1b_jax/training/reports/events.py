"""What a run spends its time on, written as it happens, so that a kill loses nothing."""

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from seq1f1b_jax.host.files import LineFile

EVENTS = "events.jsonl"
START, RESTORE, COMPILE, MEET = "start", "restore", "compile", "meet"
STEP, EVALUATE, SAVE, FINISH, END = "step", "evaluate", "save", "finish", "end"


class Events:
    """Appends a line whenever another phase begins; a phase lasts until the next line.

    Later attempts append to the same file. See `LineFile` for kills and full disks.

    Args:
      path: of the file; its folder exists. None: nothing is written.
      clock: seconds since 1970.
      say: receives a note where the file cannot be written any more.

    Raises:
      UserError: the file cannot be written.

    Example:
      >>> from pathlib import Path
      >>> from tempfile import TemporaryDirectory
      >>> with TemporaryDirectory() as folder:
      ...     path = Path(folder, "events.jsonl")
      ...     with Events(path) as events:
      ...         events.begin("step", step=0)
      ...     len(path.read_text().splitlines())
      2
    """

    def __init__(
        self, path: Path | None, *, clock: Callable[[], float] = time.time,
        say: Callable[[str], None] = print,
    ):
        self._clock = clock
        self._attempt = f"{os.uname().nodename}-{os.getpid()}-{clock():.0f}"
        self._lines = None if path is None else LineFile(path, say=say)

    def begin(self, phase: str, *, step: int | None = None, at: float | None = None) -> None:
        """The phase begins now.

        Args:
          phase: one of the names above.
          step: which one, where the phase is a step.
          at: when it began, if not now; seconds since 1970.
        """
        self._add(at, phase=phase, **({} if step is None else {"step": step}))

    def note(self, text: str) -> None:
        """Something happened that ends no phase."""
        self._add(None, note=text)

    def memory(self, **sizes: int) -> None:
        """A device holds so many bytes; `compiled_bytes` and `peak_bytes` have the names."""
        if sizes:
            self._add(None, memory=sizes)

    def catch_up(self) -> None:
        """Write what could not be written before, if it can be now."""
        if self._lines is not None:
            self._lines.catch_up()

    def _add(self, at: float | None, **what: Any) -> None:
        if self._lines is not None:
            moment = round(self._clock() if at is None else at, 3)
            self._lines.add(json.dumps({"time": moment, "attempt": self._attempt} | what))

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Record that the attempt ended as intended; one that failed was cut short.

        Ctrl-C before the first step counts as intended.
        """
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.begin(END)
        if self._lines is not None:
            self._lines.close()


def read_memory(lines: Iterable[str]) -> dict[str, int]:
    """Bytes of a device as the newest attempt that says any has measured them, by name.

    Args:
      lines: of `events.jsonl`; those that are no such event are skipped.

    Example:
      >>> from seq1f1b_jax.training.reports.events import read_memory
      >>> read_memory([
      ...     '{"time": 1, "attempt": "a", "memory": {"peak": 7}}',
      ...     '{"time": 2, "attempt": "b", "memory": {"temporaries": 5}}',
      ...     '{"time": 3, "attempt": "b", "memory": {"peak": 6}}',
      ... ])
      {'temporaries': 5, 'peak': 6}
    """
    newest, sizes = None, {}
    for line in lines:
        try:
            event = json.loads(line)
            attempt, found = event["attempt"], dict(event["memory"])
        except (ValueError, TypeError, KeyError, RecursionError):  # cut by a kill, or not ours
            continue
        sizes = sizes if attempt == newest else {}
        sizes |= {name: size for name, size in found.items() if type(size) is int and size >= 0}
        newest = attempt
    return sizes


def process_began() -> float:
    """When this process was started, before any import; seconds since 1970."""
    try:
        stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        ticks = int(stat.rpartition(")")[2].split()[19])  # field 22: ticks since the machine began
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):  # not Linux
        age = time.process_time()
    return time.time() - age


NO_EVENTS = Events(None)
