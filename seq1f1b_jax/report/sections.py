"""The sections of the page, those without anything to show left out."""

import html
from collections.abc import Iterator, Sequence

from seq1f1b_jax.paths import one_line
from seq1f1b_jax.report.predicted_figures import memory_figure, step_figure
from seq1f1b_jax.report.run import Run
from seq1f1b_jax.report.style import to_html
from seq1f1b_jax.report.tables import differences_table, settings_list
from seq1f1b_jax.report.time_figures import parts_figure, progress_figure
from seq1f1b_jax.report.training_figure import training_figure

RANK_PIXELS, FRAME_PIXELS = 86, 210
"""Of a traced step's drawing: of a rank in both timelines, and of all around them."""

TRAINING = """Drag to zoom into steps in all charts at once, double-click to zoom out."""
SEVERAL = """ A click on a run in the legend hides it, a double-click shows it alone."""
TIME = """Lost steps were done and, after a kill, done again; down is the time from a kill to the
next start; idle is the time from a requested end to the next start and not counted as lost."""
PROGRESS = """A line per start of a run, which a triangle marks: a gap is time between two starts, a
fall is work done again."""
MEMORY = """Predicted before the step was compiled, term by term; compiled is what the compiler
allocated for the program; the measured peak is the most that the device had in use."""
NO_PEAK = """ CPU devices report no peak."""
STEP = """Predicted before the step was compiled; measured is the median over the run's steps."""
TIMELINE = """One step, traced action by action (<code>--trace</code>), below the prediction for the
same work. The wheel zooms."""


def sections(runs: Sequence[Run]) -> Iterator[str]:
    """Each as HTML, in the order of the page.

    Args:
      runs: in the order of their colours.
    """
    yield _section("Training", TRAINING + SEVERAL * (len(runs) > 1),
                   to_html(training_figure(runs), "training"))  # fmt: skip
    if (parts := parts_figure(runs)) is not None:
        yield _section("Where the time went", TIME, to_html(parts, "time"))
    if (progress := progress_figure(runs)) is not None:
        yield _section("Steps over time", PROGRESS, to_html(progress, "progress"))
    if (memory := memory_figure(runs)) is not None:
        missing = not all("peak" in run.memory for run in runs)
        yield _section("Memory of a device", MEMORY + NO_PEAK * missing, to_html(memory, "memory"))
    if (step := step_figure(runs)) is not None:
        yield _section("Time of a step", STEP, to_html(step, "step"))
    if frames := "\n".join(_frames(runs)):
        yield _section("Timeline of a step", TIMELINE, frames)
    if table := differences_table(runs) if len(runs) > 1 else "":
        yield _section("Settings that differ", "", f'<div class="wide">{table}</div>')
    if settings := settings_list(runs):
        yield _section("Settings", "", settings)


def _section(title: str, words: str, content: str) -> str:
    return f"<section><h2>{title}</h2>\n<p>{words}</p>\n{content}</section>"


def _frames(runs: Sequence[Run]) -> Iterator[str]:
    """The drawings of traced steps, each a document of its own that reaches nothing outside."""
    for run in runs:
        if run.trace is not None and run.trace.page is not None:
            height = FRAME_PIXELS + RANK_PIXELS * run.trace.num_ranks
            name = html.escape(one_line(run.name))
            yield (
                f'<h3>{name}</h3><iframe sandbox="allow-scripts" height="{height}" '
                f'title="timeline of {name}" srcdoc="{html.escape(run.trace.page)}"></iframe>'
            )
