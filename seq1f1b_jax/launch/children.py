"""The processes of one attempt: started, heard, ended; nobody is left behind."""

import ctypes
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from seq1f1b_jax.config import UserError
from seq1f1b_jax.launch.output import Filter, Tail

PIECE_BYTES = 1 << 16
PR_SET_PDEATHSIG = 1

Hearers = Callable[[int], tuple[Sequence[Filter], Sequence[Filter]]]
"""Index of a process -> who hears its standard output, and its standard error."""


@dataclass
class Child:
    """One process.

    Attributes:
      process: with its two pipes.
      tail: the last lines of its standard error.
      code: its exit status once it has ended, -N for signal N.
    """

    process: subprocess.Popen[bytes]
    tail: Tail = field(default_factory=Tail)
    code: int | None = None


class Children:
    """All processes of an attempt.

    Args:
      reader: what else to wake up for: the pipe of `wakeups.listening`.
    """

    def __init__(self, reader: int):
        self.members: list[Child] = []
        self._reader = reader
        self._selector = selectors.DefaultSelector()
        self._selector.register(reader, selectors.EVENT_READ, None)

    @property
    def running(self) -> bool:
        """Whether any has not ended."""
        return any(child.code is None for child in self.members)

    def start(
        self, command: Sequence[str], environment: Mapping[str, str],
        out: Sequence[Filter], err: Sequence[Filter],
    ) -> None:
        """Start the next one, in a process group of its own: a Ctrl-C comes through us only.

        Raises:
          UserError: the command cannot be started.
        """
        try:
            process = subprocess.Popen(
                command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, process_group=0, preexec_fn=_end_with_us(),
            )  # fmt: skip
        except OSError as error:
            raise UserError(
                f"cannot start {command[0]!r}: {error.strerror}; name a .py file or a program that "
                "is on the PATH"
            ) from error
        child = Child(process)
        self.members.append(child)
        self._listen(process.stdout, out)
        self._listen(process.stderr, [*err, child.tail])

    def wait(self, seconds: float | None) -> None:
        """Pass output on as it comes; return once a signal has come, or after `seconds`."""
        while True:
            ready = self._selector.select(seconds)
            for key, _ in ready:
                if key.data is not None:
                    self._hear(key)
            if not ready or any(key.data is None for key, _ in ready) or seconds is not None:
                return

    def reap(self) -> dict[int, int]:
        """Index and exit status of those that have ended since the last call."""
        ended = {}
        for index, child in enumerate(self.members):
            if child.code is None and (code := child.process.poll()) is not None:
                child.code = ended[index] = code
        if ended:
            self.drain()
        return ended

    def drain(self) -> None:
        """Pass on what has been written by now."""
        while ready := [key for key, _ in self._selector.select(0) if key.data is not None]:
            for key in ready:
                self._hear(key)

    def signal(self, number: int) -> list[int]:
        """Send a signal to every process that runs, and to what it has started; their indices."""
        running = [index for index, child in enumerate(self.members) if child.code is None]
        for index in running:
            _signal_group(self.members[index].process, number)
        return running

    def close(self) -> None:
        """Kill what is left, of children's children too, and release everything."""
        for child in self.members:
            _signal_group(child.process, signal.SIGKILL)
            child.process.wait()
        self.drain()
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                self._forget(key)
        self._selector.close()

    def _listen(self, pipe, hearers: Sequence[Filter]) -> None:
        os.set_blocking(pipe.fileno(), False)
        self._selector.register(pipe, selectors.EVENT_READ, hearers)

    def _hear(self, key: selectors.SelectorKey) -> None:
        try:
            piece = os.read(key.fd, PIECE_BYTES)
        except BlockingIOError:
            return
        for hearer in key.data if piece else ():
            hearer.feed(piece)
        if not piece:
            self._forget(key)

    def _forget(self, key: selectors.SelectorKey) -> None:
        self._selector.unregister(key.fileobj)
        for hearer in key.data:
            hearer.close()
        key.fileobj.close()


@contextmanager
def started(
    commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]],
    hearers: Hearers, reader: int,
) -> Iterator[Children]:
    """The processes while they run; whatever happens, none outlives this.

    Args:
      commands: of each process.
      environments: of each process.
      hearers: who gets its output.
      reader: see `Children`.
    """
    children = Children(reader)
    try:
        for index, (command, environment) in enumerate(zip(commands, environments, strict=True)):
            children.start(command, environment, *hearers(index))
        yield children
    finally:
        children.close()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # all of them are gone


def _end_with_us() -> Callable[[], object] | None:
    """What a child does first: ask Linux to be killed when the launcher is, even by SIGKILL.

    Without it four processes would go on without anybody who could stop or restart them.
    """
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return lambda: library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
