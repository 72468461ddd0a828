"""Draw one timeline: rows, boxes, labels, memory curves. All heights are in figure pixels."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from seq1f1b_jax.picture.frame import FAMILY, SMALL_POINTS
from seq1f1b_jax.picture.labels import Extent, labels_of
from seq1f1b_jax.picture.layout import Panel
from seq1f1b_jax.picture.memory import MemoryAxis
from seq1f1b_jax.picture.style import HATCH, MEMORY, OP_STYLES, WAITING, fill
from seq1f1b_jax.picture.timeline import Curve, Span
from seq1f1b_jax.schedule import Op

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SEAM = 0.7  # widest line between two boxes, in points


def draw_rows(axes: "Axes", panel: Panel) -> None:
    """Draw what shows where a rank waits, from the start of the step to its end."""
    tops = np.array([panel.row_top(rank) for rank in range(panel.timeline.num_ranks)])
    starts, ends = np.zeros_like(tops), np.full_like(tops, panel.timeline.end)
    corners = rectangles(starts, ends, tops, tops + panel.row)
    _add_polygons(axes, corners, facecolors=WAITING, linewidths=0, zorder=1, gid="idle")


def draw_boxes(axes: "Axes", panel: Panel, *, pixels_per_time: float) -> None:
    """Draw one box per action: one collection per operation, so that large plans stay quick.

    Args:
      axes: x is time, y is pixels below the first row's top.
      panel: the timeline and its heights.
      pixels_per_time: scale, which bounds the seam between boxes.
    """
    timeline = panel.timeline
    for op, style in OP_STYLES.items():
        spans = [span for span in timeline.spans if span.action.op is op]
        if not spans:
            continue
        corners = _corners(spans, panel)
        widths = pixels_per_time * np.array([span.end - span.start for span in spans])
        colours = [
            fill(op, span.action.microbatch, span.action.chunk, timeline.num_chunks)
            for span in spans
        ]
        seam = min(_SEAM, 0.1 * float(np.median(widths)))
        looks = {"edgecolors": "white", "linewidths": seam}
        _add_polygons(axes, corners, facecolors=colours, zorder=3, gid=f"boxes-{op}", **looks)
        if style.hatched and np.median(widths) > 3:
            _add_hatch(axes, corners)


def _corners(spans: Iterable[Span], panel: Panel) -> np.ndarray:
    starts = np.array([span.start for span in spans])
    ends = np.array([span.end for span in spans])
    tops = np.array([panel.box_top(span) for span in spans])
    return rectangles(starts, ends, tops, tops + panel.box)


def rectangles(
    lefts: np.ndarray, rights: np.ndarray, tops: np.ndarray, bottoms: np.ndarray
) -> np.ndarray:
    """Corners of rectangles, `[number, 4, 2]`, from their edges, each `[number]`."""
    x = np.stack([lefts, rights, rights, lefts], axis=1)
    y = np.stack([tops, tops, bottoms, bottoms], axis=1)
    return np.stack([x, y], axis=2)


def _add_polygons(axes: "Axes", corners: np.ndarray, *, gid: str, **looks: object) -> None:
    from matplotlib.collections import PolyCollection

    axes.add_collection(PolyCollection(corners, closed=True, gid=gid, **looks), autolim=False)


def _add_hatch(axes: "Axes", corners: np.ndarray) -> None:
    """Lines over the boxes, in a collection of their own: hatches take the colour of the edge."""
    from matplotlib.collections import PolyCollection

    hatch = PolyCollection(
        corners, facecolors="none", edgecolors=HATCH, linewidths=0, zorder=4, gid="hatch"
    )
    hatch.set_hatch("//////")
    hatch.set_hatch_linewidth(0.5)
    axes.add_collection(hatch, autolim=False)


def draw_labels(
    axes: "Axes", panel: Panel, *, pixels_per_time: float, measure: Callable[[str], Extent]
) -> None:
    """Write `microbatch.chunk` into the boxes that can hold it.

    Args:
      axes: as for `draw_boxes`.
      panel: the timeline and its heights.
      pixels_per_time: scale of the time axis.
      measure: size of a label, in pixels.
    """
    timeline = panel.timeline
    labels = labels_of(
        timeline,
        pixels_per_time=pixels_per_time,
        box_height=panel.box,
        measure=measure,
    )
    for label in labels:
        op, microbatch, chunk = label.span.action.op, *label.span.action.unit
        background = fill(op, microbatch, chunk, timeline.num_chunks)
        behind = {"facecolor": background, "edgecolor": "none", "pad": 0.8} if op is Op.W else None
        axes.text(
            (label.span.start + label.span.end) / 2,
            panel.box_top(label.span) + panel.box / 2,
            label.text,
            fontsize=SMALL_POINTS,
            family=FAMILY,
            color=OP_STYLES[op].ink,
            rotation=90 if label.upright else 0,
            ha="center",
            va="center" if label.upright else "center_baseline",
            bbox=behind,
            zorder=6,
        )


def draw_curves(axes: "Axes", panel: Panel, memory: MemoryAxis) -> None:
    """Draw under every rank what it holds, all on one scale.

    Args:
      axes: as for `draw_boxes`.
      panel: the timeline and its heights.
      memory: the scale.
    """
    curves = panel.timeline.memory
    polygons = []
    for rank, curve in enumerate(curves):
        floor = panel.row_top(rank) + panel.row + panel.curve
        x, y = _steps(curve, until=panel.timeline.end)
        polygons.append(np.stack([x, floor - y / memory.top * (panel.curve - 1.5)], axis=1))
    looks = {"facecolors": MEMORY, "edgecolors": MEMORY, "linewidths": 0.5}
    _add_polygons(axes, polygons, zorder=2, gid="memory", **looks)


def _steps(curve: Curve, *, until: float) -> tuple[np.ndarray, np.ndarray]:
    """Outline of a step curve from time 0 on, closed along its floor."""
    times = np.array([0.0, *(time for time, _ in curve), until])
    values = np.array([0.0, *(value for _, value in curve)])
    x = np.repeat(times, 2)
    return x, np.concatenate([[0.0], np.repeat(values, 2), [0.0]])
