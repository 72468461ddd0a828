"""What a run's folder tells the launcher: which steps are finished, and who is behind."""

import json
from pathlib import Path
from typing import Any

METRICS, CHECKPOINTS, WATCHDOG = "metrics.jsonl", "checkpoints", "watchdog"
TAIL_BYTES = 1 << 16


def finished_steps(folder: Path) -> int:
    """Steps that the run has finished, by its metrics or, where those are gone, its checkpoints."""
    return max([0, *_measured(folder / METRICS), *_saved(folder / CHECKPOINTS)])


def _measured(path: Path) -> list[int]:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    found = [record for line in lines if (record := _record(line)) and "loss" in record]
    return [record["step"] + 1 for record in found if isinstance(record.get("step"), int)]


def _saved(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]


def who_is_behind(folder: Path, count: int, *, since: float) -> str | None:
    """One line that names the processes behind the others, or None if the folder does not tell.

    Each process' watchdog writes `watchdog/process-I.json` with what it has finished; a file that
    is missing, or older than the start, means that the process could not even do that.

    Args:
      folder: of the run.
      count: number of processes.
      since: when they were started, in Unix seconds.
    """
    places = [_place(folder / WATCHDOG / f"process-{index}.json", since) for index in range(count)]
    last = min(map(_order, places))
    behind = [index for index in range(count) if _order(places[index]) == last]
    if not any(places):
        return None
    who = " and ".join(f"process {index}" for index in behind)
    are = "is" if len(behind) == 1 else "are"
    told = _told(places[behind[0]])
    if len(behind) == count:
        return f"no process is behind: all are {told}"
    return f"{who} {are} behind: {told}; the first is {_told(max(places, key=_order))}"


def _place(path: Path, since: float) -> dict[str, Any] | None:
    try:
        record = _record(path.read_bytes())
    except OSError:
        return None
    fresh = record and isinstance(record.get("step"), int) and record.get("time", 0) >= since
    return record if fresh else None


def _order(place: dict[str, Any] | None) -> tuple[int, int]:
    if place is None:
        return -1, -1
    tick = place.get("tick")
    return place["step"], -1 if tick is None else tick


def _told(place: dict[str, Any] | None) -> str:
    if place is None:
        return "it has left no word since the start"
    tick, cell = place.get("tick"), place.get("cell")
    told = f"in step {place['step']}"
    if tick is not None:
        told += f", tick {tick}"
    return told + (f", {cell}" if cell else "")


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None  # the process died while it wrote this
    return record if isinstance(record, dict) else None
