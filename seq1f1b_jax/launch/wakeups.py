"""Signals as something a loop can wait for together with output: bytes in a pipe."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def listening() -> Iterator[int]:
    """Turn SIGINT, SIGTERM, SIGHUP and SIGCHLD into bytes that hold their numbers.

    A SIGHUP that is ignored, as under `nohup`, stays so. The handlers from before come back.

    Yields:
      The end of the pipe to read from; reading never blocks.
    """
    reader, writer = os.pipe()
    for end in (reader, writer):
        os.set_blocking(end, False)
    numbers = {*FORWARDED, signal.SIGCHLD}
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        numbers.remove(signal.SIGHUP)
    before = {number: signal.signal(number, _do_nothing) for number in numbers}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)


def arrived(reader: int) -> list[int]:
    """Numbers of the signals that came since the last call, in order, without SIGCHLD."""
    try:
        numbers = os.read(reader, 4096)
    except BlockingIOError:
        return []
    return [number for number in numbers if number in FORWARDED]


def _do_nothing(number: int, frame: object) -> None:
    """A handler there must be, or Python writes no byte."""
