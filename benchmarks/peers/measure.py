"""Programs of several groups of processes, measured in turn: wall, CPU seconds and memory.

Groups of processes (JAX's, torch's) live side by side, and only one of them works at a time: a file
says whose round it is. So a slow minute affects all programs.
"""

import ctypes
import gc
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.2
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


@dataclass(frozen=True)
class Turns:
    """Whose round it is, as a number in a file: round r of group g is number r * num_groups + g.

    Without the file, all stop waiting with an error.

    Attributes:
      path: of the file, which exists and holds 0.
      group: index of this group.
      num_groups: that take turns.
      patience: seconds to wait for the others.
    """

    path: str
    group: int
    num_groups: int
    patience: float = 3600

    def meet(self, rank: int, num_ranks: int) -> None:
        """Return when all processes of this group are here: Gloo's first call waits 30 s only."""
        here = [Path(f"{self.path}.{self.group}.{other}") for other in range(num_ranks)]
        here[rank].touch()
        self._until(lambda: all(path.exists() for path in here), "the group was not complete")

    def wait(self, number: int) -> None:
        """Return when round `number` of this group begins.

        Raises:
          TimeoutError: the other groups took too long.
        """
        wanted = number * self.num_groups + self.group
        self._until(lambda: self._now() == wanted, f"round {number} did not begin")

    def end(self, number: int) -> None:
        """Let the next group begin; one process of the group calls it."""
        new = Path(f"{self.path}.new")
        new.write_text(str(number * self.num_groups + self.group + 1))
        new.replace(self.path)

    def _now(self) -> int:
        return int(Path(self.path).read_text())

    def _until(self, reached: Callable[[], bool], problem: str) -> None:
        deadline = time.monotonic() + self.patience
        while not reached():
            self._now()  # fails where the run has failed
            if time.monotonic() > deadline:
                raise TimeoutError(f"{problem} within {self.patience:g} s")
            time.sleep(POLL_SECONDS)


def measure(
    programs: Mapping[str, Callable[[], Any]], *, begin: Callable[[], float], turns: Turns,
    rounds: int, is_first: bool, with_memory: bool = True,
) -> dict[str, dict[str, Any]]:
    """Run all programs in every round of this group; called by all of its processes at once.

    The first call of a program compiles and is not measured; its second one, alone, gives the
    memory; then `rounds` calls follow.

    Args:
      programs: functions that return when their work is done; what they return is dropped.
      begin: returns in all processes of the group at the same time, and returns that time.
      turns: of the group.
      rounds: measured calls.
      is_first: whether this process speaks for its group.
      with_memory: whether to measure it.

    Returns:
      By program: `spans`, (start, end) of the measured calls on the machine's clock; `cpu_seconds`
      of this process in them; `memory_mb`, the peak of a call above what was held before it.
    """
    found: dict[str, dict[str, Any]] = {
        name: {"spans": [], "cpu_seconds": []} for name in programs
    }
    for number in range(rounds + 1):
        turns.wait(number)
        for name, run in programs.items():
            if not number:
                run()
                if with_memory:
                    found[name]["memory_mb"] = peak_above_start(run) / 1e6
                continue
            start, cpu = begin(), time.process_time()
            run()
            found[name]["spans"].append((start, time.monotonic()))
            found[name]["cpu_seconds"].append(time.process_time() - cpu)
        begin()  # all have ended
        if is_first:
            turns.end(number)
    return found


def peak_above_start(run: Callable[[], Any]) -> float:
    """Largest resident bytes of this process during a call, less those before it (Linux).

    Freed memory is first returned to the system, so that a call cannot reuse it unseen.
    """
    if not CLEAR.exists():
        return float("nan")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text(RESET_PEAK)
    before = _status_bytes("VmRSS")
    run()
    return _status_bytes("VmHWM") - before


def common_start(latest: Callable[[int], int], *, ahead: float = 0.3) -> float:
    """Agree on a time ahead by `latest`, which returns the largest number given by any process."""
    start = latest(int(1000 * time.monotonic())) / 1000 + ahead
    time.sleep(max(0.0, start - time.monotonic()))
    return start


def _status_bytes(field: str) -> int:
    for line in STATUS.read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == field:
            return 1024 * int(rest.split()[0])
    raise OSError(f"{STATUS} has no line {field} on {os.uname().sysname}")
