"""What several processes print: one speaks for all, and errors tell whose they are."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import NoReturn

from seq1f1b_jax.config import UserError
from seq1f1b_jax.distributed.exits import USER_ERROR
from seq1f1b_jax.distributed.group import LINGER_SECONDS
from seq1f1b_jax.distributed.processes import Processes


@contextmanager
def one_voice(processes: Processes, *, end: Callable[[int], NoReturn] = os._exit) -> Iterator[None]:
    """Standard output is that of process 0; a `UserError` of any process ends it, with its number.

    It ends without waiting for threads: one that writes a checkpoint may wait for a process that is
    gone.

    Args:
      processes: of the run.
      end: ends the process with a status; tests give another one.
    """
    if processes.count == 1:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as silence:
        with redirect_stdout(silence) if processes.index else nullcontext():
            try:
                yield
            except UserError as error:
                who = f"[process {processes.index} of {processes.count}]"
                sys.stdout.flush()
                print(f"error: {who} {error}", file=sys.stderr, flush=True)
                if processes.index == 0:  # the others hear of it by a service in this process
                    time.sleep(LINGER_SECONDS)
                end(USER_ERROR)
