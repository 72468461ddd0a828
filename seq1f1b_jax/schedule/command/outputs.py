"""The picture: the one thing for which the command needs more than NumPy."""

from collections.abc import Sequence

from seq1f1b_jax.schedule.command.subjects import Subject
from seq1f1b_jax.schedule.plan import Plan


def draw(subjects: Sequence[Subject], path: str, *, machine: str) -> None:
    """Draw plans above each other on one time axis.

    Args:
      subjects: of the same work, top to bottom.
      path: of the picture; its suffix says which kind.
      machine: whose times are drawn.

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
        raise ValueError(f"cannot write {path}: {error.strerror}; choose another path") from error


def _title(plan: Plan) -> str:
    """Name and sizes; one short line, since the picture writes its figures beside it."""
    sizes = f"P={plan.num_stages} M={plan.num_microbatches} C={plan.num_chunks}"
    return f"{plan.name} {sizes}" + f" V={plan.num_virtual}" * (plan.num_virtual > 1)
