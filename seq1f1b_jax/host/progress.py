"""How far the run is, and what it waits for: live in a terminal, whole lines in a log.

step  120/200  loss 1.842  15.8k tokens/s  0.52 s/step  0:41 left
"""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text

RECENT_STEPS = 20

Waiting = Callable[[str], AbstractContextManager[list[str]]]
"""Shows what is waited for; what is appended to the list is printed at the end."""


class ProgressReport:
    """Shows loss, trained tokens/s, step time and time left.

    Args:
      num_steps: steps of the whole run.
      start_step: steps that were finished before, by an earlier run.
      bar: a live bar; None: where the console is a terminal.
      alone: whether no library writes lines of its own while something is waited for, as Gloo does
        between processes; else a wait is shown in whole lines.
      line_seconds: without a bar, at least this long between two lines; first and last are shown.
      console: where to write; None: standard output.
      clock: seconds, for the spacing of lines.

    Example:
      >>> with ProgressReport(200, bar=False) as progress:
      ...     progress.update(1, loss=5.5, tokens_per_second=16384, step_seconds=0.5)
      ...     progress.message("held-out loss 5.61")
      step   1/200  loss 5.500  16.4k tokens/s  0.50 s/step  1:40 left
      held-out loss 5.61
    """

    def __init__(
        self,
        num_steps: int,
        *,
        start_step: int = 0,
        bar: bool | None = None,
        alone: bool = True,
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
        self._in_place = self._console.is_terminal if bar is None else bar
        self._alone = alone
        self._bar: Progress | None = None
        if self._in_place:
            self._line = _Line()
            self._bar = Progress(BarColumn(bar_width=20), self._line, console=self._console)
            self._task = self._bar.add_task("", total=num_steps, completed=start_step)

    @property
    def recent_seconds(self) -> float | None:
        """Median of the last steps; `None` before the first."""
        return statistics.median(self._recent) if self._recent else None

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
            self._bar.start()  # not before the first step, in which devices meet and libraries talk
            self._line.show = lambda: line
            self._bar.update(self._task, completed=finished)
        elif self._clock() >= self._next_line or finished == self._num_steps:
            self._print(line)
            self._next_line = self._clock() + self._line_seconds

    def message(self, text: str) -> None:
        """Print a line of its own, above the bar where there is one."""
        self._print(text)

    @contextmanager
    def waiting(self, what: str) -> Iterator[list[str]]:
        """Show a wait and its duration: by `waiting` of this module, or in the bar."""
        if self._bar is None or not self._bar.live.is_started:
            in_place = self._in_place and self._alone
            shown = waiting(what, console=self._console, in_place=in_place, clock=self._clock)
            with shown as details:
                yield details
            return
        details, before, began = [], self._line.show, self._clock()
        self._line.show = lambda: f"{what} ... {self._clock() - began:.0f} s"
        try:
            yield details
        finally:
            self._line.show = before
        self._print(_took(what, self._clock() - began, details))

    def _print(self, text: str) -> None:
        _print(self._console, text)

    def __enter__(self) -> "ProgressReport":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None and self._bar.live.is_started:
            self._bar.stop()


@contextmanager
def waiting(
    what: str,
    *,
    console: Console | None = None,
    in_place: bool | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[list[str]]:
    """Show what is waited for: the seconds in place in a terminal, else a line before and after.

    Args:
      what: is going on.
      console: where to write; None: standard output.
      in_place: whether to count the seconds; None: where the console is a terminal.
      clock: seconds.

    Yields:
      A list; what is appended to it is printed after the seconds.

    Example:
      >>> with waiting("compiling the step", clock=iter([0.0, 2.5]).__next__) as details:
      ...     details.append("1.2 MB of temporaries")
      compiling the step ...
      compiling the step took 2.5 s; 1.2 MB of temporaries
    """
    console = console or Console(highlight=False)
    details, began = [], clock()
    shown: AbstractContextManager[object] = nullcontext()
    if console.is_terminal if in_place is None else in_place:
        shown = Live(
            get_renderable=lambda: Text(f"{what} ... {clock() - began:.0f} s"), console=console,
            transient=True, refresh_per_second=2,
        )
    else:
        _print(console, f"{what} ...")
    with shown:
        yield details
    _print(console, _took(what, clock() - began, details))


def _took(what: str, seconds: float, details: list[str]) -> str:
    return "; ".join([f"{what} took {seconds:.1f} s", *details])


def _print(console: Console, text: str) -> None:
    # no markup: brackets in a message are brackets; no wrapping: a line in a log is a line
    console.print(text, markup=False, soft_wrap=True)


class _Line(ProgressColumn):
    """The text beside the bar, computed whenever it is drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.show: Callable[[], str] = lambda: ""

    def render(self, task: Task) -> Text:
        return Text(self.show())


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
