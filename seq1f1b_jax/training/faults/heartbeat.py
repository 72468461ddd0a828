"""Heartbeats: where each process of a run is, published every second, and when they came.

They are kept by a service in process 0, which may stall like any other: a call to it then
returns late or never. So a thread does nothing else, and the watchdog judges by its times.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from jax.errors import JaxRuntimeError

from seq1f1b_jax.distributed import Group
from seq1f1b_jax.distributed.exits import LOST_PEER

BEAT_SECONDS = 1.0
PARTING_SECONDS = 5.0
"""How long a process that ends waits until its last heartbeat is accepted."""
NOTE = "alive"


@dataclass(frozen=True)
class Heartbeat:
    """Where a process is.

    Attributes:
      process: its index.
      step: the step it works on, counted from 0; -1 before the first.
      cell: the action that each of its stages finished last, where they are followed.
      gone: why it ended, once it has.
      status: with which the others end then.
      beat: number of this heartbeat.
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


class Heartbeats:
    """Publishes every second where this process is, and reads where the others are.

    Args:
      group: the processes.
      own: where this one is.

    Attributes:
      broken: why the service in process 0 is gone; empty while it is not.

    Example:
      >>> from seq1f1b_jax.distributed import ALONE
      >>> heartbeats = Heartbeats(ALONE, lambda: Heartbeat(0, step=3))
      >>> heartbeats.silence(0, heartbeats.answered + 2.5)  # nobody has answered since the start
      2.5
    """

    def __init__(self, group: Group, own: Callable[[], Heartbeat]):
        self._group, self._own = group, own
        self._received: dict[int, tuple[Heartbeat, float]] = {}
        self._last: Heartbeat | None = None
        self._beat = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish, name="heartbeat", daemon=True)
        self.answered = time.monotonic()
        self.broken = ""

    @property
    def latest(self) -> dict[int, Heartbeat]:
        """The latest of each process, by its index."""
        return {index: beat for index, (beat, _) in sorted(self._received.items())}

    def silence(self, index: int, now: float) -> float:
        """Seconds since the last new heartbeat of a process.

        Counted as long as the service answers; if it does not, process 0 is the silent one.
        """
        unanswered = now - self.answered if index == 0 else 0.0
        received = self._received.get(index)
        return max(unanswered, self.answered - received[1] if received else 0.0)

    def start(self) -> None:
        """Publish at once, and from now on: a process that never did cannot be missed."""
        self._thread.start()

    def stop(self, last: Heartbeat | None = None) -> None:
        """Stop, after a last heartbeat, if there is one and the service takes it."""
        self._last = last
        self._stop.set()
        self._thread.join(PARTING_SECONDS)

    def forgive(self, now: float) -> None:
        """Nobody counts as silent before now, since this process has slept."""
        self.answered = now
        self._received = {index: (beat, now) for index, (beat, _) in list(self._received.items())}

    def exchange(self, now: float, own: Heartbeat) -> None:
        """Publish one, and read those of the others.

        Args:
          now: when, in seconds.
          own: to be published.
        """
        self._beat += 1
        self._group.publish(NOTE, json.dumps(asdict(replace(own, beat=self._beat))))
        for index, text in self._group.published(NOTE).items():
            beat, before = Heartbeat(**json.loads(text)), self._received.get(index)
            if before is None or before[0].beat != beat.beat:
                self._received[index] = (beat, now)
        self.answered = now

    def _publish(self) -> None:
        try:
            while not self._stop.is_set():
                self.exchange(time.monotonic(), self._own())
                self._stop.wait(BEAT_SECONDS)
            if self._last is not None:
                self.exchange(time.monotonic(), self._last)
        except JaxRuntimeError as error:
            self.broken = first_line(error)


def first_line(error: BaseException) -> str:
    """The first line of an error, without the pages below it."""
    return (str(error).splitlines() or [""])[0][:300]
