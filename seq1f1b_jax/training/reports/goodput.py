"""How much of a run's time went into steps that counted, and where the rest went.

    python -m seq1f1b_jax.training.reports.goodput runs/x

Prints a table and one line of JSON. What is counted is the time in which the run was meant to run:
the time from a requested end (Ctrl-C, SIGTERM, the last step) to the next start, `idle`, is shown
but not counted; the time from a kill to the next start, `down`, is counted.
"""

import argparse
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from seq1f1b_jax.config import UserError
from seq1f1b_jax.paths import one_line, resolve
from seq1f1b_jax.training.reports.events import (
    COMPILE,
    END,
    EVALUATE,
    EVENTS,
    FINISH,
    MEET,
    RESTORE,
    SAVE,
    START,
    STEP,
)

USEFUL, LOST, DOWN, IDLE = "useful steps", "lost steps", "down", "idle"
PARTS = (USEFUL, LOST, DOWN, IDLE, START, RESTORE, COMPILE, MEET, EVALUATE, SAVE, FINISH)
MEANINGS = {
    USEFUL: "steps whose result the run kept",
    LOST: "steps done and, after a kill, done again",
    DOWN: "from the last sign of life of a process that was killed to the next start",
    IDLE: "from a requested end to the next start; not counted",
    START: "imports, meeting the other processes, data",
    RESTORE: "parameters: read from a checkpoint, or made",
    COMPILE: "the training step, or reading it from the cache",
    MEET: "waiting until the other processes have compiled, up to the first step",
    EVALUATE: "held-out loss, its compilation included",
    SAVE: "waiting for a checkpoint that was still being written, and copying",
    FINISH: "waiting for the last checkpoint",
}


NOT_OURS = (ValueError, AttributeError, KeyError, TypeError, OverflowError, RecursionError)
"""What reading a line raises that was cut by a kill, or that no run wrote."""


class Phase(NamedTuple):
    """A phase as it took place; seconds since 1970, `attempt` counted from 0."""

    attempt: int
    name: str
    begin: float
    end: float
    step: int | None


@dataclass(frozen=True)
class Goodput:
    """Where the time of a run went.

    Attributes:
      wall_seconds: from the start of the first process to the last sign of life, pauses included.
      attempts: how often it was started.
      cut_short: attempts that did not end by themselves.
      useful_steps: steps whose result the run kept.
      lost_steps: steps finished and done again later.
      seconds: of every part; they sum to the wall time.
    """

    wall_seconds: float
    attempts: int
    cut_short: int
    useful_steps: int
    lost_steps: int
    seconds: dict[str, float]

    @property
    def counted_seconds(self) -> float:
        """In which the run was meant to run: the wall time without the pauses between attempts."""
        return self.wall_seconds - self.seconds[IDLE]

    @property
    def goodput(self) -> float:
        """Time of the useful steps over the time that counts."""
        return self.seconds[USEFUL] / self.counted_seconds if self.counted_seconds else 0.0

    @property
    def json_line(self) -> str:
        """All of it on one line, seconds to the hundredth."""
        tree = {"goodput": round(self.goodput, 4)} | asdict(self)
        tree["wall_seconds"] = round(self.wall_seconds, 2)
        tree["counted_seconds"] = round(self.counted_seconds, 2)
        tree["seconds"] = {name: round(value, 2) for name, value in self.seconds.items()}
        return json.dumps(tree)

    def __str__(self) -> str:
        """A table of the parts."""
        head = (
            f"{self.counted_seconds:.0f} s in {self.attempts} attempts, {self.cut_short} of them "
            f"cut short; {self.useful_steps} steps that counted, {self.lost_steps} lost"
        )
        return "\n".join([head, *(self._row(*part) for part in self.seconds.items())])

    def _row(self, part: str, seconds: float) -> str:
        share = f"{100 * seconds / (self.counted_seconds or 1):.1f} %" if part != IDLE else "-"
        return f"{part:<13}{seconds:>9.1f} s{share:>9}  {MEANINGS[part]}"


def read_phases(lines: Iterable[str]) -> list[Phase]:
    """The phases of a run from the lines of its `events.jsonl`, in their order.

    The last phase of a killed process has no known end: its time counts as `down`, until the next
    start. Truncated lines are skipped.
    """
    events = [event for line in lines if (event := _event(line))]
    names = list(dict.fromkeys(event["attempt"] for event in events))
    phases = []
    for event, following in zip(events, events[1:], strict=False):
        phase, attempt = event["phase"], names.index(event["attempt"])
        if following["attempt"] != event["attempt"]:
            phase = IDLE if phase == END else DOWN
        step = event.get("step") if phase == STEP else None
        phases.append(Phase(attempt, phase, event["time"], following["time"], step))
    return phases


def has_ended(lines: Iterable[str]) -> bool | None:
    """Whether the newest attempt ended by itself; None where no line is an event.

    If not, it is in progress or was killed.
    """
    events = [event for line in lines if (event := _event(line))]
    return events[-1]["phase"] == END if events else None


def measure(lines: Iterable[str]) -> Goodput:
    """Sum up the lines of `events.jsonl`.

    Raises:
      UserError: none of them is an event.

    Example:
      >>> lines = ['{"time": 0, "attempt": "a", "phase": "start"}',
      ...          '{"time": 4, "attempt": "a", "phase": "step", "step": 0}',
      ...          '{"time": 10, "attempt": "a", "phase": "end"}']
      >>> measure(lines).goodput
      0.6
    """
    lines = list(lines)
    events = [event for line in lines if (event := _event(line))]
    if not events:
        raise UserError(
            f"no event in {EVENTS}: the run has not reached its first phase, or the file is not "
            "of a run; give the folder of a run that has begun"
        )
    phases = read_phases(lines)
    lost = _lost(phases)
    seconds = dict.fromkeys(PARTS, 0.0)
    steps: Counter[str] = Counter()
    for phase in phases:
        part = phase.name
        if part == STEP:
            part = LOST if (phase.attempt, phase.step) in lost else USEFUL
            steps[part] += 1
        seconds[part] = seconds.get(part, 0.0) + phase.end - phase.begin
    attempts = {event["attempt"] for event in events}
    ended = {event["attempt"] for event in events if event["phase"] == END}
    return Goodput(
        wall_seconds=events[-1]["time"] - events[0]["time"], attempts=len(attempts),
        cut_short=len(attempts - ended), useful_steps=steps[USEFUL], lost_steps=steps[LOST],
        seconds=seconds,
    )


def _lost(phases: Sequence[Phase]) -> set[tuple[int, int]]:
    """(attempt, step) of the steps that a later attempt did again, or began before."""
    lost, first = set(), None  # the earliest step that later attempts begin with
    for attempt in sorted({phase.attempt for phase in phases}, reverse=True):
        steps = [p.step for p in phases if p.attempt == attempt and p.step is not None]
        if first is not None:
            lost |= {(attempt, step) for step in steps if step >= first}
        if steps:
            first = min(steps[0], steps[0] if first is None else first)
    return lost


def _event(line: str) -> dict | None:
    try:
        event = json.loads(line)
        named = isinstance(event["attempt"], str) and isinstance(event["phase"], str)
        timed = math.isfinite(event["time"]) and isinstance(event.get("step", 0), int)
        return event if named and timed else None
    except NOT_OURS:
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status is 2 after one line about bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m seq1f1b_jax.training.reports.goodput", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", help="a run's folder (train.output_dir)")
    folder = parser.parse_args(arguments).folder
    try:
        try:
            text = (resolve(folder) / EVENTS).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise UserError(
                f"cannot read {Path(folder, EVENTS)} ({error.strerror}); give the folder of a run"
            ) from error
        found = measure(text.splitlines())
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    try:
        print(found)
        print(found.json_line, flush=True)
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
