"""What a service has to do, and how one that fails is kept from ending a run."""

import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol

from seq1f1b_jax.config import UserError

CLOSE_SECONDS = 60.0
"""How long the end of a run waits for what a service has not taken yet."""
INSTALL = "in a clone: pip install '.[logging]'"


class Sink(Protocol):
    """A service that takes numbers and files.

    Attributes:
      name: what users call it.
    """

    name: str

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the numbers of a step, by their names in `metrics.jsonl`."""
        ...

    def keep(self, path: Path) -> None:
        """Keep a file of the run: settings, text, a picture, a page; or leave it."""
        ...

    def close(self, *, failed: bool) -> None:
        """Hand over everything; `failed` says that the run ended with an error."""
        ...


class Behind:
    """Another sink, in a thread of its own.

    A call that fails is counted; the first failure is reported, from the thread of the run, and the
    others with the last call. Later calls are still tried: a network comes back.

    Args:
      sink: does the work.
      say: prints a line.
      close_seconds: how long `close` waits.

    Example:
      >>> from seq1f1b_jax.training.tracking.sink import Behind
      >>> class Broken:
      ...     name = "Broken"
      ...     def write(self, step, values): raise RuntimeError("no network")
      ...     def close(self, *, failed): pass
      >>> sink = Behind(Broken(), say=print)
      >>> sink.write(0, {"loss": 1.0})
      >>> sink.close(failed=False)
      note: Broken failed (no network); the run goes on, and its own files have everything
    """

    def __init__(
        self, sink: Sink, *, say: Callable[[str], None], close_seconds: float = CLOSE_SECONDS
    ):
        self.name = sink.name
        self._sink, self._say, self._close_seconds = sink, say, close_seconds
        self._calls: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._failures: list[BaseException] = []
        self._reported = 0
        self._thread = threading.Thread(target=self._work, daemon=True, name=f"to {sink.name}")
        self._thread.start()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record the numbers of a step, soon."""
        self._put(lambda: self._sink.write(step, values))

    def keep(self, path: Path) -> None:
        """Keep a file of the run, soon."""
        self._put(lambda: self._sink.keep(path))

    def close(self, *, failed: bool) -> None:
        """Wait until everything is handed over, but not for ever."""
        self._put(lambda: self._sink.close(failed=failed))
        self._calls.put(None)
        self._thread.join(self._close_seconds)
        self._report()
        if self._thread.is_alive():
            self._say(
                f"note: {self.name} has not taken everything after {self._close_seconds:.0f} s; "
                "the run ends without it, its own files have it"
            )
        elif len(self._failures) > 1:
            self._say(f"note: {self.name} failed {len(self._failures)} times in all")

    def _put(self, call: Callable[[], None]) -> None:
        self._calls.put(call)
        self._report()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            with _Collected(self._failures):
                call()

    def _report(self) -> None:
        """Report the first failure, once."""
        if self._failures and not self._reported:
            self._reported = 1
            self._say(
                f"note: {self.name} failed ({reason(self._failures[0])}); the run goes on, and its "
                "own files have everything"
            )


class _Collected:
    """Adds the error of its block to a list, whatever it is: a service may raise anything."""

    def __init__(self, failures: list[BaseException]):
        self._failures = failures

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is not None and isinstance(error, Exception):
            self._failures.append(error)
            return True
        return False


class Starting:
    """Turns the error of a service that cannot be opened into one line, whatever it is.

    Args:
      setting: that asks for it.
      package: that it needs.
      cure: what to do about another error.

    Raises:
      UserError: in place of the error.

    Example:
      >>> from seq1f1b_jax.training.tracking.sink import Starting
      >>> with Starting("logging.wandb", "wandb", cure="log in"):  # doctest: +ELLIPSIS
      ...     raise RuntimeError("No API key configured.")
      Traceback (most recent call last):
      seq1f1b_jax.config.UserError: logging.wandb=true cannot start (No API key configured.); ...
    """

    def __init__(self, setting: str, package: str, *, cure: str):
        self._setting, self._package, self._cure = setting, package, cure

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, ModuleNotFoundError):
            raise UserError(
                f"{self._setting}=true needs {self._package}, which is not installed; install the "
                f"extra `logging` ({INSTALL}) or set {self._setting}=false"
            ) from error
        if isinstance(error, Exception) and not isinstance(error, UserError):
            raise UserError(
                f"{self._setting}=true cannot start ({reason(error)}); {self._cure}, or set "
                f"{self._setting}=false"
            ) from error


def reason(error: BaseException) -> str:
    """An error in a few words, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
