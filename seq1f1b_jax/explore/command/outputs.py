"""What the command writes: the picture, for which alone it needs more than NumPy, and the plan."""

import os
from collections.abc import Sequence
from pathlib import Path

from seq1f1b_jax.explore.command.subjects import Subject
from seq1f1b_jax.paths import one_line, resolve
from seq1f1b_jax.schedule.files.plan_file import Format, write_plan
from seq1f1b_jax.schedule.plan import Plan


def check_folders(*paths: str | None) -> None:
    """Refuse files that could not be written, before the work.

    Raises:
      ValueError: a folder does not exist, or a path names one.
    """
    for path in paths:
        if path is None:
            continue
        file, shown = resolve(path), one_line(path)
        if file.is_dir() or path.endswith(("/", os.sep)):
            raise ValueError(f"cannot write {shown}: it names a folder; add the name of a file")
        if not file.parent.is_dir():
            raise ValueError(
                f"cannot write {shown}: {one_line(Path(path).parent)} is no folder; create it first"
            )


def save(plan: Plan, path: str, *, form: Format) -> str:
    """Write the plan, and say what was written.

    Raises:
      ValueError: it cannot be written.
    """
    write_plan(plan, path, form=form)
    line = f"plan: {one_line(path)}"
    if form == "own":
        return line
    if plan.num_chunks == 1:
        return f"{line}, as torch writes it"
    return (
        f"{line}, as torch writes it: chunk c of microbatch m is its microbatch"
        f" m*{plan.num_chunks}+c (it runs those independently); read it back with --chunks"
        f" {plan.num_chunks}"
    )


def draw(subjects: Sequence[Subject], path: str, *, machine: str) -> str:
    """Draw plans above each other on one time axis.

    Args:
      subjects: of the same work, top to bottom.
      path: of the picture; its suffix says which kind.
      machine: whose times are drawn.

    Returns:
      A line that says what was written.

    Raises:
      ValueError: the suffix is unknown, the folder does not exist, or matplotlib is missing.
    """
    from seq1f1b_jax.picture import timeline_of, write  # reports do without

    memory_unit = "units" if len(subjects) == 1 else "microbatches"
    timelines = [
        timeline_of(
            subject.simulations[machine],
            title=_title(subject.plan),
            memory_unit=memory_unit,
        )
        for subject in subjects
    ]
    try:
        write(timelines, path)
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"cannot write {one_line(path)}: {reason}; choose another path") from error
    return f"picture: {one_line(path)}"


def _title(plan: Plan) -> str:
    """Name and sizes; one short line, since the picture writes its figures beside it."""
    sizes = f"P={plan.num_ranks} M={plan.num_microbatches} C={plan.num_chunks}"
    return f"{plan.name} {sizes}" + f" V={plan.stages_per_rank}" * (plan.stages_per_rank > 1)
