"""What the processes of a run say of themselves, every second, and when they last did.

Their notes lie in a service in process 0, which may stand still like any other: a call to it then
returns late or never. So a thread does nothing else, and who judges the others looks at its times.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from jax.errors import JaxRuntimeError

from seq1f1b_jax.distributed import Group
from seq1f1b_jax.distributed.exits import LOST_PEER

SPEAK_SECONDS = 1.0
PARTING_SECONDS = 5.0
"""How long a process that ends waits for its last word to be taken."""
NOTE = "alive"


@dataclass(frozen=True)
class Standing:
    """Where a process is.

    Attributes:
      process: its index.
      step: the step it works on, counted from 0; -1 before the first.
      cell: the action that each of its stages finished last, where they are followed.
      gone: why it ended, once it has.
      status: with which the others end then.
      beat: counts what it said; `Talk` does.
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


class Talk:
    """Says every second where this process is, and hears where the others are.

    Args:
      group: the processes.
      own: where this one is.

    Attributes:
      broken: why the service in process 0 is gone; empty while it is not.

    Example:
      >>> from seq1f1b_jax.distributed import ALONE
      >>> talk = Talk(ALONE, lambda: Standing(0, step=3))
      >>> talk.silence(0, talk.answered + 2.5)  # nobody has answered since the start
      2.5
    """

    def __init__(self, group: Group, own: Callable[[], Standing]):
        self._group, self._own = group, own
        self._heard: dict[int, tuple[Standing, float]] = {}
        self._last: Standing | None = None
        self._beat = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._speak, name="standing", daemon=True)
        self.answered = time.monotonic()
        self.broken = ""

    @property
    def standings(self) -> dict[int, Standing]:
        """What each process has said last, by its index."""
        return {index: standing for index, (standing, _) in sorted(self._heard.items())}

    def silence(self, index: int, now: float) -> float:
        """Seconds for which a process has said nothing new.

        Counted as long as the service answers; where it does not, it is process 0 that is silent.
        """
        unanswered = now - self.answered if index == 0 else 0.0
        heard = self._heard.get(index)
        return max(unanswered, self.answered - heard[1] if heard else 0.0)

    def start(self) -> None:
        """Speak at once, and from now on: who has never spoken cannot be missed."""
        self._thread.start()

    def stop(self, last: Standing | None = None) -> None:
        """Be silent; before that say a last word, if there is one and somebody takes it."""
        self._last = last
        self._stop.set()
        self._thread.join(PARTING_SECONDS)

    def forgive(self, now: float) -> None:
        """Nobody counts as silent before now, since this process has slept."""
        self.answered = now
        self._heard = {index: (standing, now) for index, (standing, _) in list(self._heard.items())}

    def exchange(self, now: float, own: Standing) -> None:
        """Say something and hear what there is.

        Args:
          now: when, in seconds.
          own: what to say.
        """
        self._beat += 1
        self._group.tell(NOTE, json.dumps(asdict(replace(own, beat=self._beat))))
        for index, text in self._group.told(NOTE).items():
            standing, before = Standing(**json.loads(text)), self._heard.get(index)
            if before is None or before[0].beat != standing.beat:
                self._heard[index] = (standing, now)
        self.answered = now

    def _speak(self) -> None:
        try:
            while not self._stop.is_set():
                self.exchange(time.monotonic(), self._own())
                self._stop.wait(SPEAK_SECONDS)
            if self._last is not None:
                self.exchange(time.monotonic(), self._last)
        except JaxRuntimeError as error:
            self.broken = first_line(error)


def first_line(error: BaseException) -> str:
    """What an error says, without the pages below it."""
    return (str(error).splitlines() or [""])[0][:300]
