"""Standard output that may fail: its reader closes it, or the disk is full."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO, cast

from seq1f1b_jax.config import UserError


class Output:
    """A text stream that drops what it cannot write.

    After the first failure its descriptor leads nowhere, so that neither compiled libraries nor
    Python's flush at its end fail.

    Args:
      stream: where to write.

    Attributes:
      lost: why nothing can be written, once that is so.

    Example:
      >>> import os
      >>> from seq1f1b_jax.host.stdout import Output
      >>> reader, writer = os.pipe()
      >>> with os.fdopen(writer, "w") as stream:
      ...     output = Output(stream)
      ...     os.close(reader)
      ...     print("nobody reads this", file=output, flush=True)
      >>> output.lost
      BrokenPipeError(32, 'Broken pipe')
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._listeners: list[Callable[[OSError], None]] = []
        self._lock = threading.Lock()
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write the text, or drop it."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Hand over what was written, or drop it."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    @contextmanager
    def when_lost(self, listener: Callable[[OSError], None]) -> Iterator[None]:
        """Call `listener` with the first failure in the block; at once, if it has been."""
        self._listeners.append(listener)
        if self.lost is not None:
            listener(self.lost)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: OSError) -> None:
        with suppress(OSError, ValueError):  # a stream without a descriptor
            lead_nowhere(self._stream.fileno())
        with self._lock:
            first, self.lost = self.lost is None, self.lost or error
        if first:
            for listener in self._listeners:
                listener(error)


def lead_nowhere(descriptor: int) -> None:
    """Let what is written to a descriptor vanish."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


@contextmanager
def lasting_output(*, prints_result: bool) -> Iterator[Output]:
    """Keep a command from failing because its output is no longer read.

    Args:
      prints_result: whether that is the command's result. A reader who leaves has had enough of it,
        and nothing is printed. Else the command goes on, for its files, and notes that once.

    Yields:
      Standard output.

    Raises:
      UserError: at the end of a command whose result could not be printed, for lack of space say.
    """
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        output, errors = Output(sys.stdout or nothing), Output(sys.stderr or nothing)
        with (
            redirect_stderr(cast(TextIO, errors)),
            redirect_stdout(cast(TextIO, output)),
            nullcontext() if prints_result else output.when_lost(_say_once),
        ):
            try:
                yield output
            finally:
                output.flush()
    if prints_result and output.lost is not None and not isinstance(output.lost, BrokenPipeError):
        raise UserError(
            f"cannot write standard output ({output.lost.strerror}), which gets the result; make "
            "space, or send it elsewhere"
        )


def describe_loss(error: OSError) -> str:
    """The note about a standard output that is gone."""
    return f"standard output is gone ({error.strerror}); going on without it, saving as usual"


def _say_once(error: OSError) -> None:
    print(f"note: {describe_loss(error)}", file=sys.stderr, flush=True)
