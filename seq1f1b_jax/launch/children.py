"""The processes of one attempt: started, read, ended; none is left behind."""

import os
import select
import selectors
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, NamedTuple

from seq1f1b_jax.config import UserError
from seq1f1b_jax.launch.guard import Guard
from seq1f1b_jax.launch.output import Filter, Tail

PIECE_BYTES = 1 << 16
MAX_PIECES = 64
"""What a dead process has left in its pipes is less; what it has started may write for ever."""
HOLD_SECONDS = 0.2

Hearers = Callable[[int], tuple[Sequence[Filter], Sequence[Filter]]]
"""Index of a process -> receivers of its standard output, and of its standard error."""


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


class ChildOutput(NamedTuple):
    """One of the two outputs of a process, and its readers."""

    index: int
    pipe: IO[bytes]
    hearers: tuple[Filter, ...]
    errors: bool


class Children:
    """All processes of an attempt.

    Args:
      reader: what else to wake up for: the pipe of `wakeups.listening`.
      guard: ends them if the launcher is killed.
    """

    def __init__(self, reader: int, guard: Guard):
        self.members: list[Child] = []
        self._guard = guard
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
                stderr=subprocess.PIPE, process_group=0,
            )  # fmt: skip
        except OSError as error:
            raise UserError(
                f"cannot start {command[0]!r}: {error.strerror}; name a .py file or a program that "
                "is on the PATH"
            ) from error
        self._guard.watch(process.pid)
        child = Child(process)
        self.members.append(child)
        self._listen(process.stdout, out, errors=False)
        self._listen(process.stderr, [*err, child.tail], errors=True)

    def wait(self, seconds: float | None) -> None:
        """Pass on what is written within `seconds`, at the latest until a signal comes.

        A signal comes first: a death is reported before what the others print about it.
        """
        ready = [key.data for key, _ in self._selector.select(seconds)]
        if None in ready or any(stream.errors for stream in ready) and self._death_follows():
            return
        for stream in ready:
            self._read(stream)

    def _death_follows(self) -> bool:
        """Whether a signal comes while errors are held back, as long as all processes are alive.

        The sockets of a process that is killed close before its parent learns of it.
        """
        alive = all(child.code is None for child in self.members)
        return alive and bool(select.select([self._reader], [], [], HOLD_SECONDS)[0])

    def reap(self) -> dict[int, int]:
        """Index and exit status of those that have ended since the last call."""
        ended = {}
        for index, child in enumerate(self.members):
            if child.code is None and (code := child.process.poll()) is not None:
                child.code = ended[index] = code
        return ended

    def drain(self, index: int | None = None) -> None:
        """Pass on what one process, or all, has written by now."""
        for _ in range(MAX_PIECES):
            ready = [key.data for key, _ in self._selector.select(0) if key.data is not None]
            streams = [stream for stream in ready if index in (None, stream.index)]
            if not streams:
                return
            for stream in streams:
                self._read(stream)

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
            self._guard.forget(child.process.pid)
        self.drain()
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                self._forget(key.data)
        self._selector.close()

    def _listen(self, pipe: IO[bytes], hearers: Sequence[Filter], *, errors: bool) -> None:
        os.set_blocking(pipe.fileno(), False)
        stream = ChildOutput(len(self.members) - 1, pipe, tuple(hearers), errors)
        self._selector.register(pipe, selectors.EVENT_READ, stream)

    def _read(self, stream: ChildOutput) -> None:
        try:
            piece = os.read(stream.pipe.fileno(), PIECE_BYTES)
        except BlockingIOError:
            return
        for hearer in stream.hearers if piece else ():
            hearer.feed(piece)
        if not piece:
            self._forget(stream)

    def _forget(self, stream: ChildOutput) -> None:
        self._selector.unregister(stream.pipe)
        for hearer in stream.hearers:
            hearer.close()
        stream.pipe.close()


@contextmanager
def started(
    commands: Sequence[Sequence[str]], environments: Sequence[Mapping[str, str]],
    hearers: Hearers, reader: int,
) -> Iterator[Children]:
    """The processes while they run; none outlives this block.

    Args:
      commands: of each process.
      environments: of each process.
      hearers: receivers of its output.
      reader: see `Children`.
    """
    with Guard() as guard:
        children = Children(reader, guard)
        try:
            each = enumerate(zip(commands, environments, strict=True))
            for index, (command, environment) in each:
                children.start(command, environment, *hearers(index))
            yield children
        finally:
            children.close()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # all of them are gone
