"""Ctrl-C and SIGTERM as a request to stop after the step, not as a stack trace in the middle."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from seq1f1b_jax.config import UserError
from seq1f1b_jax.distributed import Group

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether a signal asked the run to stop.

    Attributes:
      signal: the signal that asked, None as long as none did.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        """True once Ctrl-C or SIGTERM has arrived."""
        return self.signal is not None


class Agreement:
    """Lets all processes of a run stop after the same step, whichever of them was asked to.

    A process that was asked, during step k say, leaves a note that names k + 1. No process can
    begin step k + 2 before all have finished k + 1, so each reads the note in time. With one
    process the step itself is the last.

    Args:
      group: the processes.
      stop: whether a signal came to this one.
    """

    NOTE = "last step"

    def __init__(self, group: Group, stop: StopRequest):
        self._group, self._stop = group, stop
        self._last: int | None = None

    def is_last(self, step: int) -> bool:
        """Whether the run stops after `step`; called once after every step, by all processes."""
        if self._group.count == 1:
            return self._stop.requested
        if self._last is None and (note := self._group.peek(self.NOTE)) is not None:
            self._last = int(note)
        if self._last is None and self._stop.requested:
            self._last = int(self._group.post(self.NOTE, str(step + 1)))
        return self._last is not None and step >= self._last


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into `stop.requested`; a Ctrl-C after that ends the process.

    The second Ctrl-C is left to the operating system: it works in the middle of a compilation too,
    and a process killed at any moment leaves a run that resumes. Further SIGTERMs change nothing.
    The handlers that were there before come back at the end.

    Raises:
      UserError: called outside the main thread, where Python allows no handlers.

    Example:
      >>> import signal
      >>> with stop_on_signals() as stop:
      ...     for step in range(1000):
      ...         if step == 3:
      ...             signal.raise_signal(signal.SIGTERM)  # as a scheduler would
      ...         if stop.requested:
      ...             break
      >>> step
      3
    """
    if threading.current_thread() is not threading.main_thread():
        raise UserError(
            f"stop_on_signals was entered in thread {threading.current_thread().name}; signal "
            "handlers exist in the main thread only: train there"
        )
    stop = StopRequest()

    def handle(number: int, frame: FrameType | None) -> None:
        again = stop.requested
        stop.signal = stop.signal or signal.Signals(number)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not again:
            _tell("\nstopping after this step and saving; Ctrl-C again ends the process at once\n")
        elif number == signal.SIGINT:  # it came before the line above took effect
            signal.raise_signal(number)

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(text: str) -> None:
    """Write to standard error below Python's buffers, which the interrupted code may be using."""
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())
