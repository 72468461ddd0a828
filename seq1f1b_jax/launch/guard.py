"""No process outlives the launcher, even if it is killed: a separate process ends the rest.

The kernel can kill a child with its parent, but not what that child has started: behind
a shell wrapper the run would go on without anybody to stop or restart it. So the launcher sends
the process groups that it has started to a small process, through a pipe. When the pipe ends,
however that came, the groups that are left are killed.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress


class Guard:
    """The small process, as the launcher sees it.

    Example:
      >>> import subprocess
      >>> with Guard() as guard:
      ...     child = subprocess.Popen(["sleep", "60"], process_group=0)
      ...     guard.watch(child.pid)  # a launcher that is killed here leaves no sleep
      ...     child.kill()
      ...     _ = child.wait()
      ...     guard.forget(child.pid)
    """

    def __enter__(self) -> "Guard":
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE, bufsize=0,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()

    def watch(self, group: int) -> None:
        """Kill this process group when the launcher is gone."""
        self._send(group)

    def forget(self, group: int) -> None:
        """It has ended: its number may soon be reused."""
        self._send(-group)

    def _send(self, number: int) -> None:
        with suppress(BrokenPipeError):  # the guard was killed, which does no harm yet
            self._process.stdin.write(b"%d\n" % number)


def kill_whom_it_left(lines: Iterable[bytes]) -> None:
    """Read until the launcher is gone, then kill: N is watched, -N forgotten."""
    groups: set[int] = set()
    for number in map(int, lines):
        (groups.add if number > 0 else groups.discard)(abs(number))
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    kill_whom_it_left(sys.stdin.buffer)
