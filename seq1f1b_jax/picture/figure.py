"""Timelines as a figure for a paper or a README: SVG or PNG, 800 pixels wide."""

from collections.abc import Callable, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seq1f1b_jax.picture.boxes import draw_boxes, draw_curves, draw_labels, draw_rows
from seq1f1b_jax.picture.files import write_file
from seq1f1b_jax.picture.frame import (
    FAMILY,
    POINTS,
    SMALL_POINTS,
    TITLE_POINTS,
    add_axes,
    draw_grid,
    draw_peaks,
    draw_ranks,
    draw_time_axis,
    draw_title,
    time_ticks,
)
from seq1f1b_jax.picture.labels import Extent
from seq1f1b_jax.picture.layout import AXIS, TITLE, WIDTH, FigureLayout, Panel, lay_out
from seq1f1b_jax.picture.legend import PlacedEntry, draw_legend, legend_entries, place_entries
from seq1f1b_jax.picture.memory import MemoryAxis, memory_axes
from seq1f1b_jax.picture.timeline import Timeline, check_together

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PIXELS_PER_INCH = 96  # those of a web page, on which the SVG is 800 pixels wide
_PNG_DPI = 2 * PIXELS_PER_INCH  # sharp letters on fine screens


def draw_figure(timelines: Sequence[Timeline], path: str | Path) -> None:
    """Draw timelines above each other on one time axis, with the memory of each rank under it.

    The SVG keeps its text as text and is the same in every run; the PNG has 1600 pixels, for a
    width of 800.

    Args:
      timelines: top to bottom, in one unit of time.
      path: of the file, ending in `.svg` or `.png`.

    Raises:
      ValueError: the ending is another one, the folder does not exist, the timelines do not belong
        on one axis, or matplotlib is missing.

    Example:
      >>> from pathlib import Path
      >>> from tempfile import TemporaryDirectory
      >>> from seq1f1b_jax.picture import draw_figure, timeline_of
      >>> from seq1f1b_jax.schedule import Costs, make_plan, simulate
      >>> plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=2, num_chunks=2)
      >>> timeline = timeline_of(simulate(plan, Costs(forward=1, backward=2)), title=plan.name)
      >>> with TemporaryDirectory() as folder:
      ...     draw_figure([timeline], Path(folder, "plan.svg"))
      ...     Path(folder, "plan.svg").stat().st_size > 1000
      True
    """
    kind = Path(path).suffix.lower()
    if kind not in (".svg", ".png"):
        raise ValueError(f"a figure cannot be written to {str(path)!r}; end it in .svg or .png")
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError(
            f"{kind} needs matplotlib, which is not installed; install it, or write .html or .json"
        ) from error
    settings = {"svg.hashsalt": "seq1f1b", "svg.fonttype": "none"}
    metadata = {"Date": None, "Creator": None} if kind == ".svg" else {"Software": None}
    content = BytesIO()
    with matplotlib.rc_context(settings):
        figure = build_figure(timelines)
        figure.savefig(content, format=kind[1:], dpi=_PNG_DPI, metadata=metadata)
    picture = content.getvalue()
    write_file(path, _with_other_fonts(picture) if kind == ".svg" else picture)


def _with_other_fonts(svg: bytes) -> bytes:
    """Name fonts of nearly the same width for machines that lack the first."""
    family = f"font-family: '{FAMILY}'"
    return svg.replace(family.encode(), f"{family}, Verdana, sans-serif".encode())


def build_figure(timelines: Sequence[Timeline]) -> "Figure":
    """Build the figure that `draw_figure` writes.

    Args:
      timelines: top to bottom, in one unit of time.

    Raises:
      ValueError: the timelines do not belong on one axis.
    """
    from matplotlib.figure import Figure

    timelines = check_together(timelines)
    legend = _place_legend(timelines)
    layout = lay_out(timelines, num_legend_lines=1 + legend[-1].line)
    size = WIDTH / PIXELS_PER_INCH, layout.height / PIXELS_PER_INCH
    figure = Figure(figsize=size, dpi=PIXELS_PER_INCH, facecolor="white")
    end = max(timeline.end for timeline in timelines)
    scales = memory_axes(timelines)
    for panel in layout.panels:
        _draw_panel(figure, layout, panel, end=end, memory=scales[panel.timeline.memory_unit])
    _draw_foot(figure, layout, legend, end=end)
    return figure


def _draw_panel(
    figure: "Figure", layout: FigureLayout, panel: Panel, *, end: float, memory: MemoryAxis
) -> None:
    area = {"top": panel.rows_top, "height": panel.rows_height}
    axes = add_axes(figure, layout, left=layout.left, right=layout.right, **area)
    axes.set_xlim(0, end)
    draw_rows(axes, panel)
    draw_grid(axes, panel, time_ticks(end))
    scale = layout.axis_width / end
    draw_boxes(axes, panel, pixels_per_time=scale)
    draw_labels(axes, panel, pixels_per_time=scale, measure=measure(SMALL_POINTS))
    draw_curves(axes, panel, memory)
    margins = add_axes(figure, layout, left=0, right=WIDTH, **area)
    margins.set_xlim(0, WIDTH)
    draw_ranks(margins, panel, right=layout.left - 8)
    draw_peaks(margins, panel, memory, left=layout.right + 6)
    title = add_axes(figure, layout, left=0, right=WIDTH, top=panel.top, height=TITLE)
    title.set_xlim(0, WIDTH)
    draw_title(
        title,
        panel,
        left=layout.left,
        right=layout.right,
        measure_title=measure(TITLE_POINTS, weight="bold"),
        measure_notes=measure(POINTS),
    )


def _draw_foot(
    figure: "Figure", layout: FigureLayout, legend: Sequence[PlacedEntry], *, end: float
) -> None:
    area = {"top": layout.axis_top, "height": AXIS}
    axis = add_axes(figure, layout, left=layout.left, right=layout.right, **area)
    axis.set_xlim(0, end)
    draw_time_axis(axis, ticks=time_ticks(end), unit=layout.panels[0].timeline.unit)
    area = {"top": layout.axis_top + AXIS, "height": layout.legend_height}
    words = add_axes(figure, layout, left=0, right=WIDTH, **area)
    words.set_xlim(0, WIDTH)
    draw_legend(words, legend, points=POINTS)


def _place_legend(timelines: Sequence[Timeline]) -> tuple[PlacedEntry, ...]:
    words = measure(POINTS)
    return place_entries(
        legend_entries(timelines), left=56, right=WIDTH - 12, measure=lambda text: words(text).width
    )


def measure(points: float, *, weight: str = "normal") -> Callable[[str], Extent]:
    """Make a function that measures the size of a text in pixels of the figure.

    Letters are fitted to the pixels of the screen, so it is the larger of two resolutions.

    Args:
      points: size of the letters.
      weight: thickness of the letters.
    """
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.font_manager import FontProperties

    font = FontProperties(family=FAMILY, size=points, weight=weight)
    renderers = {dpi: RendererAgg(1, 1, dpi) for dpi in (PIXELS_PER_INCH, _PNG_DPI)}

    @cache
    def size(text: str) -> Extent:
        sizes = (
            np.array(renderer.get_text_width_height_descent(text, font, False)) / dpi
            for dpi, renderer in renderers.items()
        )
        width, height, _ = PIXELS_PER_INCH * np.max(list(sizes), axis=0)
        return Extent(float(width), float(height))

    return size
