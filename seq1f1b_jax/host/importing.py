"""Ctrl-C while modules are imported: a line and status 130; imports nothing that takes time."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 130


@contextmanager
def ctrl_c_ends_imports() -> Iterator[None]:
    """End the process at Ctrl-C, instead of raising within an import.

    A `KeyboardInterrupt` that an extension module meets becomes an ImportError of many lines. Does
    nothing outside the main thread, and where Ctrl-C is ignored or has a handler already.

    Example:
      >>> from seq1f1b_jax.host.importing import ctrl_c_ends_imports
      >>> with ctrl_c_ends_imports():
      ...     import json
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    with suppress(OSError):  # its terminal may be gone
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"\ninterrupted\n")
    os._exit(INTERRUPTED)
