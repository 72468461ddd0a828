"""What several processes print: one speaks for all, and errors tell whose they are."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout

from seq1f1b_jax.config import UserError
from seq1f1b_jax.distributed.group import LINGER_SECONDS
from seq1f1b_jax.distributed.processes import Processes


@contextmanager
def one_voice(processes: Processes) -> Iterator[None]:
    """Standard output is that of process 0; a `UserError` of any process begins with its number."""
    if processes.count == 1:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as silence:
        with redirect_stdout(silence) if processes.index else nullcontext():
            try:
                yield
            except UserError as error:
                if processes.index == 0:  # the others hear of it by a service in this process
                    time.sleep(LINGER_SECONDS)
                who = f"[process {processes.index} of {processes.count}]"
                raise UserError(f"{who} {error}") from error
