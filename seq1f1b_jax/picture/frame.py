"""What surrounds the boxes of a figure: titles, names of ranks, peaks, the time axis."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from seq1f1b_jax.picture.labels import Extent, shortened
from seq1f1b_jax.picture.layout import AXIS, TITLE, WIDTH, FigureLayout, Panel
from seq1f1b_jax.picture.memory import MemoryAxis
from seq1f1b_jax.picture.style import INK, QUIET_INK, RULE
from seq1f1b_jax.picture.timeline import UNITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAMILY = "DejaVu Sans"  # comes with matplotlib, so widths are the same everywhere
TITLE_POINTS = 9
POINTS = 7.5
SMALL_POINTS = 6.75
_TITLE_BASELINE = TITLE - 8


def add_axes(
    figure: "Figure", layout: FigureLayout, *, top: float, height: float, left: float, right: float
) -> "Axes":
    """Add an axes without frame at a position in pixels, its y in pixels downwards from its top."""
    rectangle = (
        left / WIDTH,
        1 - (top + height) / layout.height,
        (right - left) / WIDTH,
        height / layout.height,
    )
    axes = figure.add_axes(rectangle)
    axes.set_axis_off()
    axes.set_ylim(height, 0)
    return axes


def time_ticks(end: float) -> list[float]:
    """Round times from 0 to the end, about eight."""
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(nbins=9, steps=[1, 2, 5, 10]).tick_values(0, end)
    return [float(tick) for tick in ticks if 0 <= tick <= end * (1 + 1e-9)]


def draw_grid(axes: "Axes", panel: Panel, ticks: Sequence[float]) -> None:
    """Draw thin lines at the ticks, over the rows and under the boxes."""
    axes.vlines(ticks, 0, panel.rows_height, colors=RULE, linewidths=0.5, zorder=1.5)


def draw_title(
    axes: "Axes",
    panel: Panel,
    *,
    left: float,
    right: float,
    measure_title: Callable[[str], Extent],
    measure_notes: Callable[[str], Extent],
) -> None:
    """Write a timeline's title and, to the right of it, its notes.

    Args:
      axes: of the title line, in pixels.
      panel: whose timeline is meant.
      left: edge of the time axis.
      right: likewise.
      measure_title: size of a title, in pixels; what does not fit is left out.
      measure_notes: size of notes, in pixels.
    """
    looks = {"family": FAMILY, "va": "baseline", "parse_math": False}
    timeline = panel.timeline
    notes = shortened("  ·  ".join(timeline.notes), width=right - left, measure=measure_notes)
    free = right - left - measure_notes(notes).width - 20
    title = shortened(timeline.title, width=free, measure=measure_title)
    axes.text(
        left, _TITLE_BASELINE, title, fontsize=TITLE_POINTS, weight="bold", color=INK, **looks
    )
    axes.text(right, _TITLE_BASELINE, notes, fontsize=POINTS, color=QUIET_INK, ha="right", **looks)


def draw_ranks(axes: "Axes", panel: Panel, *, right: float) -> None:
    """Write the ranks' names beside their boxes.

    Args:
      axes: of the left margin, in pixels.
      panel: whose timeline is meant.
      right: edge of the names.
    """
    for rank in range(panel.timeline.num_ranks):
        axes.text(
            right,
            panel.row_top(rank) + panel.row / 2,
            f"rank {rank}",
            fontsize=_row_points(panel),
            family=FAMILY,
            color=INK,
            ha="right",
            va="center_baseline",
        )


def draw_peaks(axes: "Axes", panel: Panel, memory: MemoryAxis, *, left: float) -> None:
    """Write the most that each rank holds beside its curve, under a heading.

    Args:
      axes: of the right margin, in pixels.
      panel: whose timeline is meant.
      memory: the scale.
      left: edge of the numbers.
    """
    looks = {"family": FAMILY, "color": QUIET_INK}
    if panel.timeline.memory:
        first_number = panel.row + panel.curve / 2
        middle = min(panel.row / 2, first_number - 12)
        axes.text(left, middle, memory.heading, fontsize=POINTS, va="center_baseline", **looks)
    for rank, peak in enumerate(panel.timeline.peaks):
        middle = panel.row_top(rank) + panel.row + panel.curve / 2
        points = _row_points(panel)
        axes.text(left, middle, memory.text(peak), fontsize=points, va="center_baseline", **looks)


def _row_points(panel: Panel) -> float:
    return min(POINTS, 0.62 * panel.pitch)


def draw_time_axis(axes: "Axes", *, ticks: Sequence[float], unit: str) -> None:
    """Draw the axis under the lowest timeline.

    Args:
      axes: x is time, y pixels.
      ticks: times that get a number.
      unit: of time.
    """
    axes.hlines(0, *axes.get_xlim(), colors=RULE, linewidths=0.8)
    axes.vlines(ticks, 0, 4, colors=QUIET_INK, linewidths=0.6)
    looks = {"family": FAMILY, "fontsize": POINTS, "color": QUIET_INK, "va": "baseline"}
    for tick in ticks:
        axes.text(tick, 15, f"{tick:g}", ha="center", **looks)
    axes.text(sum(axes.get_xlim()) / 2, AXIS - 12, f"time, {UNITS[unit]}", ha="center", **looks)
