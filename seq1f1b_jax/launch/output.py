"""What becomes of a child's output: passed on, without Gloo's lines, or marked line by line."""

import os
import re
import sys
from collections import deque
from collections.abc import Callable
from io import RawIOBase
from typing import Protocol, TextIO

NOISE = b"[Gloo] "
"""Gloo writes a line per process and group to standard output."""
REFUSAL, CONSEQUENCE = b"error:", b"watchdog:"
"""How a process begins the line in which it refuses its input, or ends since another did."""
TAIL_LINES = 10

Write = Callable[[bytes], None]


class Filter(Protocol):
    """Takes pieces of output as they come, and passes on what matters."""

    def feed(self, piece: bytes) -> None: ...
    def close(self) -> None: ...


class SeenErrors:
    r"""Which errors were shown: all processes refuse the same bad input, and one line is enough.

    Example:
      >>> shown = SeenErrors()
      >>> shown.is_news(b"error: no such file\n"), shown.is_news(b"error: no such file\n")
      (True, False)
      >>> shown.is_news(b"error: [process 1 of 2] no such file\n"), shown.is_news(b"step 1\n")
      (False, True)
    """

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def is_news(self, line: bytes) -> bool:
        """Whether a line is new; one that is no error is."""
        if line.startswith(CONSEQUENCE):
            return not any(seen in line for seen in self._seen)
        if not line.startswith(REFUSAL):
            return True
        error = re.sub(rb"^error:\s*(\[process \d+ of \d+\])?\s*", b"", line).strip()
        known = error in self._seen
        self._seen.add(error)
        return not known


class PassThrough:
    r"""Passes everything on at once, partial lines too, except for lines of Gloo and old refusals.

    Args:
      write: takes what is passed on.
      refusals: of all processes.

    Example:
      >>> through = PassThrough(lambda piece: print(piece))
      >>> through.feed(b"[Gl"), through.feed(b"oo] Rank 0\nstep 1 ")
      b'step 1 '
      (None, None)
    """

    def __init__(self, write: Write, refusals: SeenErrors | None = None):
        self._write, self._refusals = write, refusals or SeenErrors()
        self._held = b""  # beginning of a line that may yet be dropped
        self._dropping = self._inside = False

    def feed(self, piece: bytes) -> None:
        """Pass on what is worth it; hold back a beginning that may not be."""
        passed = b"".join(map(self._part, (self._held + piece).splitlines(keepends=True)))
        if passed:
            self._write(passed)

    def close(self) -> None:
        """Pass on what is held back."""
        if self._held:
            self._write(self._held)
        self._held = b""

    def _part(self, part: bytes) -> bytes:
        """What of a line, or of the part of it that is there, is passed on."""
        self._held = b""
        if not self._inside:
            if not part.endswith(b"\n") and _may_be_dropped(part):
                self._held = part
                return b""
            self._dropping = part.startswith(NOISE) or not self._refusals.is_news(part)
        self._inside = not part.endswith(b"\n")
        return b"" if self._dropping else part


def _may_be_dropped(beginning: bytes) -> bool:
    """Whether the rest of a line decides: its first word, or the error itself."""
    marks = (NOISE, REFUSAL, CONSEQUENCE)
    unfinished = any(mark.startswith(beginning) for mark in marks)
    return unfinished or beginning.startswith((REFUSAL, CONSEQUENCE))


class Marked:
    """Passes whole lines on behind a mark, except for empty ones, those of Gloo and old refusals.

    Args:
      write: takes what is passed on.
      mark: before every line.
      refusals: of all processes.
    """

    def __init__(self, write: Write, mark: bytes, refusals: SeenErrors | None = None):
        self._write, self._mark = write, mark
        self._refusals = refusals or SeenErrors()
        self._rest = b""

    def feed(self, piece: bytes) -> None:
        """Pass on the lines that are whole by now."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        kept = [line for line in lines if line.strip() and not line.startswith(NOISE)]
        whole = [self._mark + line + b"\n" for line in kept if self._refusals.is_news(line)]
        if whole:
            self._write(b"".join(whole))

    def close(self) -> None:
        """Pass on a last line that has no end."""
        if self._rest:
            self.feed(b"\n")


class Tail:
    """Keeps the last lines.

    Attributes:
      lines: the last ones, without their ends.
    """

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=TAIL_LINES)
        self._marked = Marked(self._keep, b"")

    def feed(self, piece: bytes) -> None:
        """Remember the lines that are whole by now."""
        self._marked.feed(piece)

    def close(self) -> None:
        """Remember a last line that has no end."""
        self._marked.close()

    def _keep(self, text: bytes) -> None:
        lines = text.decode("utf-8", "replace").splitlines()
        self.lines.extend(lines)


class ToFile:
    """Writes everything to an unbuffered file, as long as that works."""

    def __init__(self, file: RawIOBase, complain: Callable[[str], None]):
        self._file, self._complain = file, complain
        self._works = True

    def feed(self, piece: bytes) -> None:
        """Write at once, so that it is there even if the launcher is killed."""
        if not self._works:
            return
        try:
            self._file.write(piece)
        except OSError as error:  # a full disk ends the log, not the run
            self._works = False
            self._complain(f"a log in --log-dir ends here: {error.strerror}")

    def close(self) -> None:
        """Leave the file open: two streams share it."""


class ConsoleStream:
    """Writes at once; silent once that fails.

    Nobody reads any more (`head` has seen enough) or the disk is full: the run itself goes on.

    Attributes:
      inside: whether what was written last is an unfinished line.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.inside = False

    def __call__(self, piece: bytes) -> None:
        """Write all of it."""
        self.inside = not piece.endswith(b"\n")
        try:
            self._stream.buffer.write(piece)
            self._stream.flush()
        except OSError:
            self._stream = open(os.devnull, "w", encoding="utf-8")


class Console:
    """The launcher's own standard output and error."""

    def __init__(self) -> None:
        self.out, self.err = ConsoleStream(sys.stdout), ConsoleStream(sys.stderr)
        self.refusals = SeenErrors()

    def say(self, line: str) -> None:
        """A line of our own on standard error, never in the middle of another one."""
        unfinished = self.err.inside or (self.out.inside and sys.stdout.isatty())
        self.out.inside = False
        self.err(b"\n" * unfinished + line.encode() + b"\n")
