"""Timelines as one HTML page to zoom in: no network, no other file."""

import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from seq1f1b_jax.picture.files import write_file
from seq1f1b_jax.picture.legend import LegendEntry, legend_entries
from seq1f1b_jax.picture.memory import MemoryAxis, memory_axes
from seq1f1b_jax.picture.style import HATCH, HUES, MEMORY, OP_STYLES, WAITING, fill
from seq1f1b_jax.picture.timeline import UNITS, Span, Timeline, check_together
from seq1f1b_jax.schedule import Op

_SCRIPTS = ("page_model.js", "page.js", "page_input.js")
_OPS = tuple(OP_STYLES)


def write_page(timelines: Sequence[Timeline], path: str | Path) -> None:
    """Write timelines above each other on one time axis as a page.

    The wheel zooms, dragging moves, the mouse over a box shows the action and its times, and labels
    appear where they fit.

    Args:
      timelines: top to bottom, in one unit of time.
      path: of the file.

    Raises:
      ValueError: the folder does not exist, or the timelines do not belong on one axis.

    Example:
      >>> from pathlib import Path
      >>> from tempfile import TemporaryDirectory
      >>> from seq1f1b_jax.picture import timeline_of, write_page
      >>> from seq1f1b_jax.schedule import Costs, make_plan, simulate
      >>> plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=2, num_chunks=2)
      >>> timeline = timeline_of(simulate(plan, Costs(forward=1, backward=2)), title=plan.name)
      >>> with TemporaryDirectory() as folder:
      ...     write_page([timeline], Path(folder, "plan.html"))
      ...     Path(folder, "plan.html").stat().st_size > 1000
      True
    """
    timelines = check_together(timelines)
    folder = files("seq1f1b_jax.picture")
    parts = {
        "title": html.escape(", ".join(timeline.title for timeline in timelines)),
        "legend": "\n".join(map(_entry_html, legend_entries(timelines))),
        "data": _script_safe(page_data(timelines)),
        "script": "\n".join((folder / name).read_text("utf-8") for name in _SCRIPTS),
    }
    template = (folder / "page.html").read_text("utf-8")
    # One pass: what a title says is not searched for marks again.
    page = re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], template)
    write_file(path, page.encode())


def page_data(timelines: Sequence[Timeline]) -> dict[str, Any]:
    """Everything that the page's script reads.

    Args:
      timelines: top to bottom, in one unit of time.

    Returns:
      Lists, dictionaries, texts and numbers. A row holds one list per property of its spans, in
      order of time.
    """
    axes = memory_axes(timelines)
    return {
        "unit": timelines[0].unit,
        "unitName": UNITS[timelines[0].unit],
        "hatch": HATCH,
        "ops": [
            {
                "letter": str(op),
                "meaning": style.meaning,
                "ink": style.ink,
                "hatched": style.hatched,
            }
            for op, style in OP_STYLES.items()
        ],
        "timelines": [_timeline(timeline, axes[timeline.memory_unit]) for timeline in timelines],
    }


def _timeline(timeline: Timeline, axis: MemoryAxis) -> dict[str, Any]:
    return {
        "title": timeline.title,
        "notes": timeline.notes,
        "end": timeline.end,
        "stagesPerRank": timeline.stages_per_rank,
        "colours": [_colours(op, timeline.num_chunks) for op in _OPS],
        "rows": [_row(timeline, row) for row in timeline.rows],
        "memory": [
            {"time": [time for time, _ in curve], "value": [value for _, value in curve]}
            for curve in timeline.memory
        ],
        "peaks": [axis.text(peak) for peak in timeline.peaks],
        "peakHeading": axis.heading,
        "memoryName": axis.name,
        "memoryFactor": axis.factor,
        "memoryTop": axis.top,
    }


def _colours(op: Op, num_chunks: int) -> list[list[str]]:
    chunks = range(num_chunks)
    return [
        [fill(op, family, chunk, num_chunks) for chunk in chunks] for family in range(len(HUES))
    ]


def _row(timeline: Timeline, row: Sequence[Span]) -> dict[str, list]:
    return {
        "start": [span.start for span in row],
        "end": [span.end for span in row],
        "op": [_OPS.index(span.action.op) for span in row],
        "stage": [span.action.stage for span in row],
        "microbatch": [span.action.microbatch for span in row],
        "chunk": [span.action.chunk for span in row],
        "group": [timeline.layer_groups[span.rank, span.action.stage] for span in row],
    }


def _entry_html(entry: LegendEntry) -> str:
    patches = "".join(
        f'<i style="left:{patch.left:.0%};top:{patch.top:.0%};width:{patch.width:.0%};'
        f'height:{patch.height:.0%};background:{_background(patch.colour, patch.hatched)}"></i>'
        for patch in entry.sample
    )
    sample = f'<span class="sample">{patches}</span>' if patches else ""
    return f'<span class="entry">{sample}{html.escape(entry.words)}</span>'


def _background(colour: str, hatched: bool) -> str:
    if not hatched:
        return {WAITING: "var(--idle)", MEMORY: "var(--held)"}.get(colour, colour)
    return f"repeating-linear-gradient(-45deg,{HATCH} 0 1px,{colour} 1px 4px)"


def _script_safe(data: Any) -> str:
    """Write JSON that cannot end the script element that holds it, whatever the titles say."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")
