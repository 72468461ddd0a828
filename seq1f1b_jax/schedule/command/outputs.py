"""The picture: the one thing for which the command needs more than NumPy."""

from collections.abc import Sequence

from seq1f1b_jax.schedule.command.subjects import Subject
from seq1f1b_jax.schedule.command.text import size_text


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
            title=f"{subject.plan.name} {size_text(subject.plan)}",
            memory_unit=memory_unit,
        )
        for subject in subjects
    ]
    try:
        write(timelines, path)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}; choose another path") from error
