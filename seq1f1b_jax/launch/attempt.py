"""One attempt: all processes from start to end, in bounded time once one of them has died."""

import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from seq1f1b_jax.distributed.exits import LOST_PEER, USER_ERROR
from seq1f1b_jax.launch.children import Children
from seq1f1b_jax.launch.death import described, first_cause
from seq1f1b_jax.launch.wakeups import arrived

INTERRUPTED = 130  # as a shell reports Ctrl-C

Explain = Callable[[int], str | None]
"""Exit status -> one more line about it, or None."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
      code: exit status of the process that died first, -N for signal N; 0 if none did.
      cause: that death in words; None if none did.
      stopped: whether the user asked for the end.
    """

    code: int
    cause: str | None
    stopped: bool


class Attempt:
    """Watches the processes until all have ended.

    Args:
      children: the processes, started.
      grace_seconds: what the others have once one has died.
      say: receives the lines for the user.
      explain: asked about the death that counts once all have ended: only then has every watchdog
        written where its process was.
    """

    def __init__(
        self, children: Children, *, grace_seconds: float, say: Callable[[str], None],
        explain: Explain,
    ):
        self._children, self._grace, self._say = children, grace_seconds, say
        self._explain = explain
        self._interrupts = 0
        self._stopped = False
        self._first: tuple[int, int] | None = None  # index and exit status
        self._deadline: float | None = None
        self._killed: list[int] = []

    def run(self, reader: int) -> Outcome:
        """Return once all have ended; `reader` has their signals (`wakeups.listening`)."""
        while self._children.running:
            self._children.wait(self._seconds_left())
            for number in arrived(reader):
                self._forward(number)
            bad = {i: code for i, code in self._children.reap().items() if code != 0}
            if bad and self._first is None:
                self._report_first(first_cause(bad), bad)
            if self._seconds_left() == 0:
                self._kill_rest()
        if self._first and not self._stopped and (line := self._explain(self._first[1])):
            self._say(line)
        return self._outcome()

    def _seconds_left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _forward(self, number: int) -> None:
        """Pass the user's wish on; the second Ctrl-C leaves no choice."""
        self._stopped = True
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            self._say("second Ctrl-C: killing all processes")
            self._children.signal(signal.SIGKILL)
        else:
            self._children.signal(number)

    def _report_first(self, index: int, bad: dict[int, int]) -> None:
        """Name the process that died first and begin to wait for the others."""
        code = bad[index]
        self._first = (index, code)
        self._deadline = time.monotonic() + self._grace
        if self._stopped:
            return
        if code == USER_ERROR:  # its own line is the best report
            self._children.drain(index)
        self._say(described(index, code))
        self._children.drain(index)
        lines = self._children.members[index].tail.lines
        if lines and code != USER_ERROR:
            self._say("\n".join(["  the last it wrote to standard error:", *_indented(lines)]))

    def _kill_rest(self) -> None:
        """The grace is over."""
        self._deadline = None
        self._killed = self._children.signal(signal.SIGKILL)
        if self._killed and not self._stopped:
            self._say(f"{_processes(self._killed)}: killed, still running after {self._grace:g} s")

    def _outcome(self) -> Outcome:
        if self._interrupts > 1:
            return Outcome(INTERRUPTED, None, stopped=True)
        if self._first is None:
            return Outcome(0, None, self._stopped)
        index, code = self._first
        if self._stopped:  # all were asked: one that aborts since another was faster is no cause
            members = enumerate(self._children.members)
            codes = {i: m.code for i, m in members if m.code and i not in self._killed}
            code = codes[index := first_cause(codes)]
        cause = described(index, code)
        if code == LOST_PEER and self._killed:  # who lost it reports that, and is not the cause
            cause = f"{_processes(self._killed)} stood still, and process {index} lost it"
        return Outcome(code, cause, self._stopped)


def _processes(indices: Iterable[int]) -> str:
    return "process " + ", ".join(map(str, indices))


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]
