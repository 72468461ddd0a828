"""What several processes print: one for all, and errors with the number of their process."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from typing import NoReturn

from seq1f1b_jax.config import UserError
from seq1f1b_jax.distributed.exits import LOST_PEER, USER_ERROR
from seq1f1b_jax.distributed.processes import Processes

REFUSED_SECONDS = 5
"""How long a refused process 0 stays: the others learn of it from a service in this process."""

End = Callable[[int], NoReturn]
"""Ends the process with a status."""


class NotMet(UserError):
    """Other processes did not come in time; they may when the same command is started again."""


@contextmanager
def one_voice(
    processes: Processes, *, native: bool = True, end: End = os._exit
) -> Iterator[None]:
    """Standard output is that of process 0; a `UserError` of any process ends it, with its number.

    It ends without waiting for threads: one that writes a checkpoint may wait for a process that is
    gone.

    Args:
      processes: of the run.
      native: whether what compiled libraries print is shown too; see `no_native_lines`.
      end: tests give another one.

    Example:
      >>> from seq1f1b_jax.distributed import Processes
      >>> with one_voice(Processes(2, 1, "127.0.0.1:4000")):
      ...     print("nobody hears this")
      >>> with one_voice(Processes(2, 0, "127.0.0.1:4000")):
      ...     print("for both")
      for both
    """
    if processes.count == 1:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as silence:
        with (
            nullcontext() if native else no_native_lines(),
            redirect_stdout(silence) if processes.index else nullcontext(),
        ):
            try:
                yield
            except UserError as error:
                _report(processes, error)
                if processes.index == 0:
                    time.sleep(REFUSED_SECONDS)
                end(_status_of(error))


@contextmanager
def no_native_lines() -> Iterator[None]:
    """Drop what compiled libraries write to standard output; Python's own output stays.

    Gloo reports every group that it connects, from several threads at once, so that its lines
    come in pieces and fall into others. Does nothing where Python writes elsewhere already.
    """
    python = sys.stdout
    if python is None or python is not sys.__stdout__:
        yield
        return
    python.flush()
    number, own = python.fileno(), os.dup(python.fileno())
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, number)
        with open(
            own, "w", encoding=python.encoding, errors=python.errors, closefd=False,
            buffering=1 if python.line_buffering else -1,
        ) as voice, redirect_stdout(voice):
            yield
    finally:
        os.dup2(own, number)
        os.close(own)
        os.close(null)


@contextmanager
def at_most(
    seconds: float, processes: Processes, error: UserError, *, end: End = os._exit
) -> Iterator[None]:
    """Work that may wait in compiled code for ever, or end the process without a message.

    Args:
      seconds: after which this process is refused, unless the work is done.
      processes: of the run.
      error: what is printed then.
      end: tests give another one.
    """

    def give_up() -> None:
        _report(processes, error)
        end(_status_of(error))

    with otherwise(seconds, give_up):
        yield


@contextmanager
def otherwise(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Work that may hang in compiled code: `act` runs in a thread unless it finishes in time."""
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _status_of(error: UserError) -> int:
    return LOST_PEER if isinstance(error, NotMet) else USER_ERROR


def _report(processes: Processes, error: UserError) -> None:
    who = f"[process {processes.index} of {processes.count}]"
    with suppress(OSError):  # a closed output keeps no process from ending
        if sys.stdout:
            sys.stdout.flush()
        print(f"error: {who} {error}", file=sys.stderr, flush=True)
