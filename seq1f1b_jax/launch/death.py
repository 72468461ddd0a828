"""How a process ended: in words, as an exit status, and whether a restart can cure it."""

import signal
from collections.abc import Mapping

from seq1f1b_jax.distributed.exits import (
    LOST_PEER,
    MENDED_BY_RESTART,
    STALLED,
    STOPPED,
    USER_ERROR,
)

MEANING = {
    USER_ERROR: "it met bad input, as reported above",
    STALLED: "its watchdog saw a stalled step",
    LOST_PEER: "it lost another process, or met none",
    STOPPED: "it was stopped, and has saved",
    126: "the command cannot be run",
    127: "the command was not found",
    130: "it was interrupted",
}
HINTS = {
    signal.SIGKILL: " (out of memory?)",
    signal.SIGABRT: " (it gave up by itself; JAX does so when another process is gone)",
    signal.SIGBUS: " (out of shared memory or disk?)",
    signal.SIGSEGV: " (a crash in compiled code)",
}


def described(index: int, code: int) -> str:
    """One line about the end of a process.

    Args:
      index: which process it was.
      code: its exit status; -N for signal N.

    Example:
      >>> described(2, -9)
      'process 2 was killed by SIGKILL (out of memory?)'
      >>> described(1, 75)
      'process 1 ended with 75: its watchdog saw a stalled step'
    """
    if code < 0:
        return f"process {index} was killed by {signal_name(-code)}{HINTS.get(-code, '')}"
    meaning = MEANING.get(code)
    return f"process {index} ended with {code}" + (f": {meaning}" if meaning else "")


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; real-time signals have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def exit_status(code: int) -> int:
    """As a shell reports it: 128 + N for signal N."""
    return 128 - code if code < 0 else code


def can_be_mended(code: int) -> bool:
    """Whether the same command may succeed when it is started again."""
    return code < 0 or code in MENDED_BY_RESTART


def first_cause(codes: Mapping[int, int]) -> int:
    """Of processes that were found dead at one time, the one that others more likely died of.

    A process that aborts or ends because it lost another one is a consequence.

    Example:
      >>> first_cause({0: -6, 1: -9, 3: 76})
      1
    """
    late = {LOST_PEER: 2, -signal.SIGABRT: 1}
    return min(codes, key=lambda index: (late.get(codes[index], 0), index))
