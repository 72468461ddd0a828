"""Profiles of some steps by `jax.profiler`: what ran when on every device and on the host."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from seq1f1b_jax.config.profile import profile_ranges
from seq1f1b_jax.training.job import Job

PROFILE = "profile"
"""In a run's folder: a folder for each range of steps."""


class StepProfiler:
    """Starts a profile before the first step of a range and stops it after the last.

    A profile that cannot be made is reported and stops nothing. Leaving the `with` block ends one
    that is in progress.

    Args:
      ranges: ascending steps, counted from 0; those before the run's first are left out.
      folder: gets `step_N` or `steps_FIRST-LAST`, and in it `process_N` where there are several.
      process: name of the folder of this process, if it has one of its own.
      say: prints a line.

    Example:
      >>> from pathlib import Path
      >>> from tempfile import TemporaryDirectory
      >>> from seq1f1b_jax.training.profiler import StepProfiler
      >>> with TemporaryDirectory() as folder:
      ...     with StepProfiler([range(1, 3)], Path(folder), say=lambda line: None) as profiler:
      ...         for step in range(5):
      ...             profiler.before(step)
      ...             profiler.after(step)
      ...     len(list(Path(folder).glob("steps_1-2/plugins/profile/*/*.xplane.pb")))
      1
    """

    def __init__(
        self, ranges: Sequence[range], folder: Path, *, process: str = "",
        say: Callable[[str], None] = print,
    ):
        self._ranges, self._folder, self._process, self._say = ranges, folder, process, say
        self._current: range | None = None
        self._first = 0

    def before(self, step: int) -> None:
        """Start a profile, if one begins with this step, or is in progress as the run begins."""
        if self._current is None:
            self._current = next((steps for steps in self._ranges if step in steps), None)
            if self._current is not None:
                self._first = step
                self._start()

    def after(self, step: int) -> None:
        """Stop the profile that ends with this step."""
        if self._current is not None and step + 1 >= self._current.stop:
            self._stop(step)

    def __enter__(self) -> "StepProfiler":
        return self

    def __exit__(self, *_: object) -> None:
        if self._current is not None:
            self._stop(self._current.stop - 1)

    def _path(self) -> Path:
        assert self._current is not None
        first, last = self._current.start, self._current.stop - 1
        steps = f"step_{first}" if first == last else f"steps_{first}-{last}"
        return self._folder / steps / self._process

    def _start(self) -> None:
        try:
            jax.profiler.start_trace(self._path())
        except (RuntimeError, OSError) as error:  # someone else profiles this process
            self._fail(error)

    def _stop(self, last: int) -> None:
        path = self._path()
        try:
            jax.profiler.stop_trace()
        except (RuntimeError, OSError) as error:  # the folder cannot be written
            self._fail(error)
            return
        self._current = None
        steps = f"step {last}" if last == self._first else f"steps {self._first} to {last}"
        found = sorted(path.glob("plugins/profile/*/*.trace.json.gz"))
        how = f"all of it with tensorboard --logdir {path} (pip install tensorboard xprof)"
        if found:
            how = f"{found[-1].relative_to(path)} in it at https://ui.perfetto.dev, or {how}"
        self._say(f"the profile of {steps} is in {path}; open {how}")

    def _fail(self, error: Exception) -> None:
        reason = " ".join(str(error).split())[:200]
        self._say(f"note: no profile in {self._path()} ({reason}); the run goes on")
        self._current = None
        self._ranges = ()


NO_PROFILE = StepProfiler((), Path())


def make_profiler(job: Job, start: int) -> StepProfiler:
    """The profiler of a process, for the steps that are still to come."""
    train, group = job.config.train, job.group
    ranges = profile_ranges(train.profile)
    left = [steps for steps in ranges if steps.stop > start]
    if ranges and not left:
        job.say(
            f"note: train.profile={train.profile} names steps before {start}, which are done; none "
            "is profiled"
        )
    if train.profile_processes == "first" and not group.is_first:
        left = []
    process = f"process_{group.index}" if group.count > 1 else ""
    return StepProfiler(left, job.folder / PROFILE, process=process, say=job.say)
