"""Pictures of schedules, simulated or measured, in three kinds of files.

    Simulation --timeline_of--> Timeline --write--> .svg .png   a figure, 800 pixels wide
                                                    .html       a page to zoom in
                                                    .json       a trace for Perfetto

matplotlib is loaded when a figure is drawn, not before; JAX never.
"""

from collections.abc import Sequence
from pathlib import Path

from seq1f1b_jax.paths import one_line, resolve
from seq1f1b_jax.picture.figure import draw_figure
from seq1f1b_jax.picture.page import write_page
from seq1f1b_jax.picture.simulated import timeline_of
from seq1f1b_jax.picture.timeline import Span, Timeline
from seq1f1b_jax.picture.trace import write_trace

__all__ = ["Span", "Timeline", "draw_figure", "timeline_of", "write", "write_page", "write_trace"]

_WRITERS = {".svg": draw_figure, ".png": draw_figure, ".html": write_page, ".json": write_trace}


def write(timelines: Sequence[Timeline], path: str | Path) -> None:
    """Draw timelines above each other on one time axis, in the form that the ending asks for.

    Args:
      timelines: top to bottom, in one unit of time.
      path: of the file: `.svg`, `.png`, `.html` or `.json`; `~` is the home folder. It is written
        whole or not at all.

    Raises:
      ValueError: the ending is another one, the folder does not exist, the timelines do not belong
        on one axis, or matplotlib, which only figures need, is missing.

    Example:
      >>> from pathlib import Path
      >>> from tempfile import TemporaryDirectory
      >>> from seq1f1b_jax.picture import timeline_of, write
      >>> from seq1f1b_jax.schedule import Costs, make_plan, simulate
      >>> plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=2, num_chunks=2)
      >>> timeline = timeline_of(simulate(plan, Costs(forward=1, backward=2)), title=plan.name)
      >>> with TemporaryDirectory() as folder:
      ...     write([timeline], Path(folder, "plan.html"))
      ...     Path(folder, "plan.html").stat().st_size > 1000
      True
    """
    file = resolve(path)
    ending = file.suffix.lower()
    if ending not in _WRITERS:
        raise ValueError(
            f"a picture cannot be written to {str(path)!r}; end it in {', '.join(_WRITERS)}"
        )
    if not file.parent.is_dir():  # before the work of drawing
        raise ValueError(f"folder {one_line(file.parent)} does not exist; create it first")
    _WRITERS[ending](timelines, file)
