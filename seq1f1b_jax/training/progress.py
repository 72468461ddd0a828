"""How far the run is: a live bar in a terminal, a plain line now and then in a log.

step  120/200  loss 1.842  15.8k tokens/s  0.52 s/step  0:41 left
"""

import statistics
import time
from collections import deque
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

RECENT_STEPS = 20


class ProgressReport:
    """Shows loss, tokens/s, step time and time left.

    Args:
      num_steps: steps of the whole run.
      start_step: steps that were finished before, by an earlier run.
      bar: a live bar; None: where the console is a terminal.
      line_seconds: without a bar, at least this long between two lines; first and last are shown.
      console: where to write; None: standard output.
      clock: seconds, for the spacing of lines.

    Example:
      >>> with ProgressReport(200) as progress:
      ...     progress.update(1, loss=5.5, tokens_per_second=16384, step_seconds=0.5)
      ...     progress.message("held-out loss 5.61")
    """

    def __init__(
        self,
        num_steps: int,
        *,
        start_step: int = 0,
        bar: bool | None = None,
        line_seconds: float = 10.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._console = console or Console(highlight=False)
        self._num_steps = num_steps
        self._line_seconds = line_seconds
        self._clock = clock
        self._next_line = clock()
        self._recent: deque[float] = deque(maxlen=RECENT_STEPS)
        self._bar: Progress | None = None
        if self._console.is_terminal if bar is None else bar:
            self._bar = Progress(
                BarColumn(bar_width=20), TextColumn("{task.description}"), console=self._console
            )
            self._task = self._bar.add_task("starting", total=num_steps, completed=start_step)

    def update(
        self, finished: int, *, loss: float, tokens_per_second: float, step_seconds: float
    ) -> None:
        """Show the state after `finished` steps of the whole run."""
        self._recent.append(step_seconds)
        left = (self._num_steps - finished) * statistics.median(self._recent)
        line = (
            f"step {finished:>{len(str(self._num_steps))}}/{self._num_steps}  loss {loss:.3f}  "
            f"{short(tokens_per_second)} tokens/s  {step_seconds:.2f} s/step  "
            f"{clock_time(left)} left"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=finished, description=line)
        elif self._clock() >= self._next_line or finished == self._num_steps:
            self._print(line)
            self._next_line = self._clock() + self._line_seconds

    def message(self, text: str) -> None:
        """Print a line of its own, above the bar where there is one."""
        self._print(text)

    def _print(self, text: str) -> None:
        # no markup: brackets in a message are brackets; no wrapping: a line in a log is a line
        self._console.print(text, markup=False, soft_wrap=True)

    def __enter__(self) -> "ProgressReport":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def short(number: float) -> str:
    """A rate in units, thousands or millions.

    Example:
      >>> short(950), short(15754), short(2.1e7)
      ('950', '15.8k', '21.0M')
    """
    if number < 1000:
        return f"{number:.0f}"
    return f"{number / 1e3:.1f}k" if number < 1e6 else f"{number / 1e6:.1f}M"


def clock_time(seconds: float) -> str:
    """Minutes and seconds, with hours when there are any.

    Example:
      >>> clock_time(41), clock_time(3725)
      ('0:41', '1:02:05')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
