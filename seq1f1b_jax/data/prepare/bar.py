"""The progress of `prepare`: a bar in a terminal, only messages in a log."""

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as SpeedColumn


class BytesBar:
    """Bytes finished out of all, with speed and time left.

    Args:
      console: where to draw; None: standard error, as standard output is for the summary.

    Attributes:
      share: fraction of all bytes finished since the bar started, excluding an earlier run.

    Example:
      >>> from seq1f1b_jax.data.prepare.bar import BytesBar
      >>> with BytesBar() as bar:
      ...     bar.advance(0, 10)
      ...     bar.advance(5, 10)
      ...     bar.message("half of it")
      >>> bar.share
      0.5
    """

    def __init__(self, console: Console | None = None):
        self._console = console or Console(stderr=True, highlight=False)
        columns = (BarColumn(bar_width=20), DownloadColumn(), SpeedColumn(), TimeRemainingColumn())
        self._bar = Progress(
            *columns, console=self._console, disable=not self._console.is_terminal, transient=True
        )
        self._task, self._first = None, 0
        self.share = 0.0

    def advance(self, done: int, total: int) -> None:
        """Show that `done` bytes of `total` are finished."""
        if self._task is None:
            self._first = done
            self._task = self._bar.add_task("", total=total, completed=done)
        self._bar.update(self._task, completed=done)
        self.share = (done - self._first) / total if total else 0.0

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(text, markup=False, soft_wrap=True)

    def __enter__(self) -> "BytesBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
