"""What becomes of a child's output: passed on, without Gloo's lines, or marked line by line."""

import os
import sys
from collections import deque
from collections.abc import Callable
from io import RawIOBase
from typing import Protocol, TextIO

NOISE = b"[Gloo] "
"""Gloo writes a line per process and group to standard output."""
TAIL_LINES = 10

Write = Callable[[bytes], None]


class Filter(Protocol):
    """Takes pieces of output as they come, and passes on what is worth it."""

    def feed(self, piece: bytes) -> None: ...
    def close(self) -> None: ...


class PassThrough:
    r"""Passes everything on at once, partial lines too, except for lines of Gloo.

    Example:
      >>> through = PassThrough(lambda piece: print(piece))
      >>> through.feed(b"[Gl"), through.feed(b"oo] Rank 0\nstep 1 ")
      b'step 1 '
      (None, None)
    """

    def __init__(self, write: Write):
        self._write = write
        self._held = b""  # beginning of a line that may yet be Gloo's
        self._dropping = self._inside = False

    def feed(self, piece: bytes) -> None:
        """Pass on what is not Gloo's; hold back a beginning that may be."""
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
            if len(part) < len(NOISE) and NOISE.startswith(part):
                self._held = part
                return b""
            self._dropping = part.startswith(NOISE)
        self._inside = not part.endswith(b"\n")
        return b"" if self._dropping else part


class Marked:
    """Passes whole lines on, each behind a mark, except for empty lines and those of Gloo."""

    def __init__(self, write: Write, mark: bytes):
        self._write, self._mark = write, mark
        self._rest = b""

    def feed(self, piece: bytes) -> None:
        """Pass on the lines that are whole by now."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        told = [line for line in lines if line.strip() and not line.startswith(NOISE)]
        whole = [self._mark + line + b"\n" for line in told]
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


class Writer:
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
        self.out, self.err = Writer(sys.stdout), Writer(sys.stderr)

    def say(self, line: str) -> None:
        """A line of our own on standard error, never in the middle of another one."""
        unfinished = self.err.inside or (self.out.inside and sys.stdout.isatty())
        self.out.inside = False
        self.err(b"\n" * unfinished + line.encode() + b"\n")
