"""What a run spends its time on, written down as it happens, so that a kill takes nothing along."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from seq1f1b_jax.config import UserError

EVENTS = "events.jsonl"
START, RESTORE, COMPILE, MEET = "start", "restore", "compile", "meet"
STEP, EVALUATE, SAVE, FINISH, END = "step", "evaluate", "save", "finish", "end"


class Events:
    """Appends a line whenever another phase begins; a phase lasts until the next line.

    A line is written by one call, so that of a process that is killed at most the last one is cut.
    Later attempts append to the same file.

    Args:
      path: of the file; its folder exists. None: nothing is written.
      clock: seconds since 1970.

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

    def __init__(self, path: Path | None, *, clock: Callable[[], float] = time.time):
        self._clock, self._file = clock, None
        self._attempt = f"{os.uname().nodename}-{os.getpid()}-{clock():.0f}"
        if path is None:
            return
        try:
            self._file = path.open("ab", buffering=0)
            self._file.write(b"\n" * _is_cut(path))
        except OSError as error:
            raise UserError(
                f"cannot write {path} ({error.strerror}); set train.output_dir to a folder that "
                "this user may write"
            ) from error

    def begin(self, phase: str, *, step: int | None = None, at: float | None = None) -> None:
        """The phase begins now.

        Args:
          phase: one of the names above.
          step: which one, where the phase is a step.
          at: when it began, if not now; seconds since 1970.
        """
        if self._file is None:
            return
        line = {"time": round(self._clock() if at is None else at, 3), "attempt": self._attempt}
        line |= {"phase": phase} | ({} if step is None else {"step": step})
        try:
            self._file.write(json.dumps(line).encode() + b"\n")
        except OSError:  # a full disk stops no step; the checkpoint says so
            self._file.close()
            self._file = None

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Say that the attempt ended as it was meant to; one that failed was cut short.

        Ctrl-C before the first step ends it as it was meant to, too.
        """
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.begin(END)
        if self._file is not None:
            self._file.close()


def process_began() -> float:
    """When this process was started, before any import; seconds since 1970."""
    try:
        stat = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace")
        ticks = int(stat.rpartition(")")[2].split()[19])  # field 22: ticks since the machine began
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):  # not Linux
        age = time.process_time()
    return time.time() - age


def _is_cut(path: Path) -> bool:
    """Whether the last line was left unfinished by a process that was killed."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        return file.read() not in (b"", b"\n")


NO_EVENTS = Events(None)
