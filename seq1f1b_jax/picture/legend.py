"""The legend under a figure."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from seq1f1b_jax.picture.frame import FAMILY
from seq1f1b_jax.picture.layout import LEGEND_LINE
from seq1f1b_jax.picture.style import HATCH, MEMORY, OP_STYLES, QUIET_INK, WAITING, fill
from seq1f1b_jax.picture.timeline import Timeline
from seq1f1b_jax.schedule import Op

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT = 20, 12  # of a sample, in pixels
_SPACE, _WIDE_SPACE = 5, 18  # after a sample, after its words
_MICROBATCH = 1  # whose hue the samples have


class Patch(NamedTuple):
    """A rectangle of a sample; positions and sizes are shares of it, from its top left."""

    left: float
    top: float
    width: float
    height: float
    colour: str
    hatched: bool = False


class LegendEntry(NamedTuple):
    """A sample, made of patches, and its words. Without patches it is words alone."""

    words: str
    sample: tuple[Patch, ...] = ()


class PlacedEntry(NamedTuple):
    """An entry, its left edge in pixels, and its line."""

    entry: LegendEntry
    left: float
    line: int


def legend_entries(timelines: Sequence[Timeline]) -> Iterator[LegendEntry]:
    """Name what occurs in a picture, and only that."""
    ops = {span.action.op for timeline in timelines for span in timeline.spans}
    for op, style in OP_STYLES.items():
        if op in ops:
            yield LegendEntry(style.meaning, (Patch(0, 0, 1, 1, _colour(op), style.hatched),))
    yield LegendEntry("waiting", (Patch(0, 0, 1, 1, WAITING),))
    for unit in dict.fromkeys(t.memory_unit for t in timelines if t.memory):
        steps = Patch(0, 0.6, 0.5, 0.4, MEMORY), Patch(0.5, 0.1, 0.5, 0.9, MEMORY)
        yield LegendEntry("memory" if unit == "GB" else f"{unit} in flight", steps)
    if any(timeline.stages_per_rank > 1 for timeline in timelines):
        row = Patch(0, 0, 1, 1, WAITING)
        high, low = Patch(0, 0, 0.5, 0.7, _colour(Op.F)), Patch(0.5, 0.3, 0.5, 0.7, _colour(Op.F))
        yield LegendEntry("high and low: first and last layers of a rank", (row, high, low))
    shade = ", shade by chunk" if any(timeline.num_chunks > 1 for timeline in timelines) else ""
    yield LegendEntry(f"2.1: microbatch 2, chunk 1; colour by microbatch{shade}")


def _colour(op: Op) -> str:
    return fill(op, _MICROBATCH, 0, 1)


def place_entries(
    entries: Iterator[LegendEntry], *, left: float, right: float, measure: Callable[[str], float]
) -> tuple[PlacedEntry, ...]:
    """Set entries in lines, each as full as it gets.

    Args:
      entries: in order.
      left: edge of the lines, in pixels.
      right: likewise.
      measure: width of words, in pixels.
    """
    placed, x, line = [], left, 0
    for entry in entries:
        width = measure(entry.words) + (_WIDTH + _SPACE if entry.sample else 0)
        if x > left and x + width > right:
            x, line = left, line + 1
        placed.append(PlacedEntry(entry, x, line))
        x += width + _WIDE_SPACE
    return tuple(placed)


def draw_legend(axes: "Axes", placed: Sequence[PlacedEntry], *, points: float) -> None:
    """Draw the legend.

    Args:
      axes: in pixels, y downwards from the legend's top.
      placed: the entries with their positions.
      points: size of the letters.
    """
    looks = {"fontsize": points, "family": FAMILY, "color": QUIET_INK, "va": "center_baseline"}
    for entry, left, line in placed:
        middle = (line + 0.5) * LEGEND_LINE
        for patch in entry.sample:
            _draw_patch(axes, patch, left, middle - _HEIGHT / 2)
        words_left = left + (_WIDTH + _SPACE if entry.sample else 0)
        axes.text(words_left, middle, entry.words, **looks)


def _draw_patch(axes: "Axes", patch: Patch, left: float, top: float) -> None:
    from matplotlib.patches import Rectangle

    corner = left + patch.left * _WIDTH, top + patch.top * _HEIGHT
    size = patch.width * _WIDTH, patch.height * _HEIGHT
    axes.add_patch(Rectangle(corner, *size, facecolor=patch.colour, linewidth=0))
    if patch.hatched:
        lines = {"hatch": "//////", "hatch_linewidth": 0.5, "edgecolor": HATCH}
        axes.add_patch(Rectangle(corner, *size, facecolor="none", linewidth=0, **lines))
