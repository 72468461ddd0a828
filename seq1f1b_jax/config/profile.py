"""Which steps of a run are profiled: `train.profile` as ranges of steps."""

from __future__ import annotations

import re
from collections.abc import Iterator

Steps = int | tuple[int, ...] | str | None
"""A step, several, or text such as `10-12` or `5,10-12`; steps count from 0."""
PARTS = re.compile(r"\s*\d+(\s*-\s*\d+)?\s*(,\s*\d+(\s*-\s*\d+)?\s*)*")


def profile_ranges(steps: Steps) -> tuple[range, ...]:
    """The steps in ascending order, neighbours together: each range is one profile.

    Raises:
      ValueError: text of another form.

    Example:
      >>> profile_ranges("5,10-12"), profile_ranges((4, 3, 9)), profile_ranges(None)
      ((range(5, 6), range(10, 13)), (range(3, 5), range(9, 10)), ())
    """
    ranges: list[range] = []
    for step in sorted(_steps(steps)):
        if ranges and ranges[-1].stop == step:
            ranges[-1] = range(ranges[-1].start, step + 1)
        else:
            ranges.append(range(step, step + 1))
    return tuple(ranges)


def profile_problems(steps: Steps, processes: str, num_steps: int) -> Iterator[str]:
    """What is wrong with the steps to profile, one line each.

    Example:
      >>> list(profile_problems("10-300", "first", 200))
      ['train.profile=10-300 names step 300, and the run has the steps 0 to 199; name some of them']
    """
    if steps is None:
        if processes != "first":
            yield (
                f"train.profile_processes={processes} has no effect without train.profile; name "
                "the steps with --train.profile 10-12, or leave it out"
            )
        return
    shown = list(steps) if isinstance(steps, tuple) else steps
    try:
        found = _steps(steps)
    except ValueError:
        yield (
            f"train.profile={shown} names no steps; write 10, 10-12 or 5,10-12, counted from 0 as "
            "in metrics.jsonl"
        )
        return
    wrong = [step for step in found if not 0 <= step < num_steps]
    if wrong:
        yield (
            f"train.profile={shown} names step {max(wrong, key=abs)}, and the run has the steps 0 "
            f"to {num_steps - 1}; name some of them"
        )


def _steps(steps: Steps) -> set[int]:
    if steps is None:
        return set()
    if isinstance(steps, int):
        return {steps}
    if not isinstance(steps, str):
        if not steps:
            raise ValueError("no steps")
        return set(steps)
    if not PARTS.fullmatch(steps) or len(steps) > 1000:
        raise ValueError(f"{steps!r} is no list of steps")
    found: set[int] = set()
    for part in steps.split(","):
        first, _, last = part.partition("-")
        if last and not int(first) <= int(last) < int(first) + 1_000_000:
            raise ValueError(f"{part} is no range")
        found |= set(range(int(first), int(last or first) + 1))
    return found
