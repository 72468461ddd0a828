"""Signals as a request to stop after the step, not as a stack trace in the middle."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from seq1f1b_jax.config import UserError
from seq1f1b_jax.distributed import Group

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequest:
    """Whether a signal asked the run to stop.

    Attributes:
      signal: the signal that asked, None as long as none did.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        """True once a signal has arrived."""
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
    """Turn the first signal into `stop.requested`; a Ctrl-C after that ends the process.

    Signals are Ctrl-C, SIGTERM, and SIGHUP, which comes when the terminal closes; one that is
    ignored, as `nohup` has it, stays so. The second Ctrl-C is left to the operating system: a
    process killed at any moment leaves a run that resumes. Further signals change nothing. The
    handlers that were there before come back at the end.

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
        repeated = stop.requested
        stop.signal = stop.signal or signal.Signals(number)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not repeated:
            by_key, name = number == signal.SIGINT, signal.Signals(number).name
            cause, again = ("", " again") if by_key else (f"{name}: ", "")
            _write(
                f"\n{cause}stopping after this step and saving; Ctrl-C{again} ends the process at "
                "once\n"
            )
        elif number == signal.SIGINT:  # it came before the line above took effect
            signal.raise_signal(number)

    numbers = [number for number in SIGNALS if number != signal.SIGHUP or not _is_ignored(number)]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def second_ctrl_c_ends() -> Iterator[None]:
    """Let a second Ctrl-C end the process at once, in compiled code too.

    Python runs a handler between its own instructions only: while XLA compiles, any number of
    Ctrl-C is one `KeyboardInterrupt`, once the compilation returns. So a thread that hears of each
    hands the next one to the operating system. Does nothing outside the main thread.

    Example:
      >>> with second_ctrl_c_ends():
      ...     print("long compilations")
      long compilations
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    system = ctypes.CDLL(None)

    def listen() -> None:
        while number := os.read(reader, 1):
            if number[0] == signal.SIGINT and not _is_ignored(signal.SIGINT):
                system.signal(signal.SIGINT.value, None)  # SIG_DFL; Python lets main threads only

    listener = threading.Thread(target=listen, name="ctrl-c", daemon=True)
    listener.start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        listener.join()
        os.close(reader)
        if (handler := signal.getsignal(signal.SIGINT)) is not None:
            signal.signal(signal.SIGINT, handler)  # in the system too, as Python has it


def _is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN


def _write(text: str) -> None:
    """Write to standard error below Python's buffers, which the interrupted code may be using."""
    with suppress(OSError):  # its terminal may be gone
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())
