"""Positions in a figure, in pixels of an 800 pixel wide page, from the top left corner."""

from collections.abc import Sequence
from dataclasses import dataclass

from seq1f1b_jax.picture.timeline import Span, Timeline

WIDTH = 800
TITLE = 24  # height of a timeline's title line
GAP = 20  # between two timelines
AXIS = 42  # tick labels and the axis label
LEGEND_LINE = 20
MARGIN = 12
_ROWS = 300  # height that a timeline's rows fill together, where that leaves them readable
_STEP = 0.28  # share of a row by which the last layer group is below the first


@dataclass(frozen=True)
class Panel:
    """The area of one timeline.

    Attributes:
      timeline: drawn there.
      top: of its title line.
      row: height of a rank's row.
      curve: height of the memory curve under it, 0 for none.
      space: between two ranks.
    """

    timeline: Timeline
    top: float
    row: float
    curve: float
    space: float

    @property
    def rows_top(self) -> float:
        """Upper edge of the first rank's row."""
        return self.top + TITLE

    @property
    def rows_height(self) -> float:
        """Height of all ranks together."""
        return self.timeline.num_ranks * self.pitch - self.space

    @property
    def pitch(self) -> float:
        """From one rank to the next."""
        return self.row + self.curve + self.space

    @property
    def bottom(self) -> float:
        """Lower edge of the last rank."""
        return self.rows_top + self.rows_height

    @property
    def box(self) -> float:
        """Height of a box: all of the row, less a step where a rank has several layer groups."""
        return self.row * (1 - _STEP) if self.timeline.stages_per_rank > 1 else self.row

    def row_top(self, rank: int) -> float:
        """Upper edge of a rank's row, counted from `rows_top`."""
        return rank * self.pitch

    def box_top(self, span: Span) -> float:
        """Upper edge of a box: the later the layers, the lower in its row."""
        group = self.timeline.layer_groups[span.rank, span.action.stage]
        depth = group / max(self.timeline.stages_per_rank - 1, 1)
        return self.row_top(span.rank) + depth * (self.row - self.box)


@dataclass(frozen=True)
class FigureLayout:
    """The areas of a whole figure.

    Attributes:
      panels: of the timelines, top to bottom.
      left: of every time axis.
      right: likewise.
      axis_top: where the panels end and the time axis begins.
      legend_height: of the lines under the axis.
    """

    panels: tuple[Panel, ...]
    left: float
    right: float
    axis_top: float
    legend_height: float

    @property
    def height(self) -> float:
        """Height of the figure."""
        return self.axis_top + AXIS + self.legend_height + MARGIN

    @property
    def axis_width(self) -> float:
        """Width of the time axis."""
        return self.right - self.left


def lay_out(timelines: Sequence[Timeline], *, num_legend_lines: int) -> FigureLayout:
    """Place timelines above each other on one time axis, the legend under it.

    Args:
      timelines: top to bottom.
      num_legend_lines: lines that the legend needs.
    """
    panels, top = [], float(MARGIN)
    for timeline in timelines:
        panels.append(_panel(timeline, top))
        top = panels[-1].bottom + GAP
    axis_top = panels[-1].bottom + 6
    return FigureLayout(
        panels=tuple(panels),
        left=56,
        right=WIDTH - (64 if any(timeline.memory for timeline in timelines) else MARGIN),
        axis_top=axis_top,
        legend_height=num_legend_lines * LEGEND_LINE,
    )


def _panel(timeline: Timeline, top: float) -> Panel:
    pitch = min(max(_ROWS / timeline.num_ranks, 13), 46 if timeline.memory else 34)
    space = min(6, 0.15 * pitch)
    curve = 0.34 * (pitch - space) if timeline.memory else 0
    return Panel(timeline, top, row=pitch - space - curve, curve=curve, space=space)
