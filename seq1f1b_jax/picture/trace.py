"""Timelines as Chrome trace events, for Perfetto (ui.perfetto.dev) or chrome://tracing.

Perfetto keeps 0 for itself and takes the thread with its process's number for the main one, so
threads count from 1 and processes from a round number above them. It knows no order but that of
names and numbers, so ranks are written with leading zeros.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from seq1f1b_jax.picture.files import write_file
from seq1f1b_jax.picture.style import OP_STYLES
from seq1f1b_jax.picture.timeline import Span, Timeline, check_together

_FIRST_PROCESS = 100_000


def write_trace(timelines: Sequence[Timeline], path: str | Path) -> None:
    """Write timelines as one trace: a process per timeline, a thread per rank.

    A unit of cost becomes a millisecond. Memory becomes one counter per rank.

    Args:
      timelines: top to bottom, in one unit of time.
      path: of the file.

    Raises:
      ValueError: the folder does not exist, or the timelines do not belong on one axis.

    Example:
      >>> from pathlib import Path
      >>> from tempfile import TemporaryDirectory
      >>> from seq1f1b_jax.picture import timeline_of, write_trace
      >>> from seq1f1b_jax.schedule import Costs, make_plan, simulate
      >>> plan = make_plan("seq1f1b", num_ranks=2, num_microbatches=2, num_chunks=2)
      >>> timeline = timeline_of(simulate(plan, Costs(forward=1, backward=2)), title=plan.name)
      >>> with TemporaryDirectory() as folder:
      ...     write_trace([timeline], Path(folder, "plan.json"))
      ...     Path(folder, "plan.json").stat().st_size > 1000
      True
    """
    timelines = check_together(timelines)
    unit = "1 ms is 1 ms" if timelines[0].unit == "ms" else "1 ms is 1 unit of cost"
    trace = {
        "displayTimeUnit": "ms",
        "otherData": {"time": unit},
        "traceEvents": list(trace_events(timelines)),
    }
    write_file(path, json.dumps(trace, allow_nan=False, separators=(",", ":")).encode())


def trace_events(timelines: Sequence[Timeline]) -> Iterator[dict[str, Any]]:
    """Name processes and threads, then all spans, then all memory counters of each timeline.

    Args:
      timelines: one process each.
    """
    for process, timeline in enumerate(timelines, _FIRST_PROCESS):
        yield _metadata("process_name", process, name=timeline.title)
        yield _metadata("process_sort_index", process, sort_index=process)
        yield _metadata("process_labels", process, labels=", ".join(timeline.notes))
        for rank, row in enumerate(timeline.rows):
            thread = rank + 1
            yield _metadata("thread_name", process, thread, name=f"rank {_padded(rank, timeline)}")
            yield _metadata("thread_sort_index", process, thread, sort_index=rank)
            yield from (_span_event(span, process) for span in row)
        yield from _counters(timeline, process)


def _metadata(kind: str, process: int, thread: int = 1, **args: Any) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": args}


def _span_event(span: Span, process: int) -> dict[str, Any]:
    action = span.action
    start = _microseconds(span.start)
    return {
        "ph": "X",
        "name": action.text(span.rank),
        "cat": OP_STYLES[action.op].meaning,
        "pid": process,
        "tid": span.rank + 1,
        "ts": start,
        "dur": round(_microseconds(span.end) - start, 3),
        "args": {
            "op": str(action.op),
            "stage": action.stage,
            "microbatch": action.microbatch,
            "chunk": action.chunk,
        },
    }


def _counters(timeline: Timeline, process: int) -> Iterator[dict[str, Any]]:
    """Counters belong to a process, so the rank is in the name."""
    for rank, curve in enumerate(timeline.memory):
        name = f"held by rank {_padded(rank, timeline)} ({timeline.memory_unit})"
        for time, value in curve:
            yield {
                "ph": "C",
                "name": name,
                "pid": process,
                "tid": rank + 1,
                "ts": _microseconds(time),
                "args": {timeline.memory_unit: value},
            }


def _padded(rank: int, timeline: Timeline) -> str:
    return f"{rank:0{len(str(timeline.num_ranks - 1))}}"


def _microseconds(time: float) -> float:
    """Of a time in ms or units of cost, in whole nanoseconds, so that spans meet exactly."""
    return round(1000 * time, 3)
