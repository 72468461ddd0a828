"""The traced step of a run: its drawing, and the share of time in which devices waited."""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from seq1f1b_jax.config import UserError

TRACE_PAGE, TRACE_EVENTS = "trace.html", "trace.json"


class Trace(NamedTuple):
    """One step, predicted and measured (`--trace`).

    Attributes:
      page: the drawing, a whole HTML document; None where it is gone.
      num_ranks: of the pipeline.
      bubble: share of the time in which ranks wait, by title of the timeline.
    """

    page: str | None
    num_ranks: int
    bubble: dict[str, float]


def read_trace(folder: Path) -> Trace | None:
    """Read what `--trace` has left in the folder of a run; None where it has left nothing.

    Raises:
      UserError: the file holds no such trace.
    """
    path = folder / TRACE_EVENTS
    if not path.exists():
        return None
    drawing = folder / TRACE_PAGE
    page = drawing.read_text("utf-8", errors="replace") if drawing.exists() else None
    try:
        events = json.loads(path.read_bytes())["traceEvents"]
        bubble, num_ranks = _bubbles(events)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        raise UserError(f"{path} is not what --trace writes; the timeline is left out") from None
    return Trace(page, num_ranks, bubble)


def _bubbles(events: list[dict[str, Any]]) -> tuple[dict[str, float], int]:
    titles: dict[int, str] = {}
    ranks, work, end = defaultdict(set), defaultdict(float), defaultdict(float)
    for event in events:
        process = event["pid"]
        if event["name"] == "process_name":
            titles[process] = str(event["args"]["name"])
        if event["name"] == "thread_name":
            ranks[process].add(event["tid"])
        if event["ph"] == "X":
            work[process] += event["dur"]
            end[process] = max(end[process], event["ts"] + event["dur"])
    shares = {
        title: 1 - work[process] / (len(ranks[process]) * end[process])
        for process, title in titles.items()
        if ranks[process] and end[process]
    }
    if not shares or not all(map(math.isfinite, shares.values())):
        raise ValueError("no timeline")
    return shares, max(map(len, ranks.values()))
