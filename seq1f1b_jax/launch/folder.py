"""What the launcher reads from a run's folder: finished steps, and the process behind."""

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
    """One line that names the processes behind the others, or None if the folder does not show it.

    Each process' watchdog writes `watchdog/process-I.json` with what it has finished; a file that
    is missing, or older than the start, means that the process could not even do that.

    Args:
      folder: of the run.
      count: number of processes.
      since: when they were started, in Unix seconds.
    """
    paths = [folder / WATCHDOG / f"process-{index}.json" for index in range(count)]
    reports = [_report(path, since) for path in paths]
    last = min(map(_order, reports))
    behind = [index for index in range(count) if _order(reports[index]) == last]
    if not any(reports):
        return None
    who = " and ".join(f"process {index}" for index in behind)
    are = "is" if len(behind) == 1 else "are"
    where = _describe(reports[behind[0]])
    if len(behind) == count:
        return f"no process is behind: all are {where}"
    return f"{who} {are} behind: {where}; the first is {_describe(max(reports, key=_order))}"


def _report(path: Path, since: float) -> dict[str, Any] | None:
    try:
        record = _record(path.read_bytes())
    except OSError:
        return None
    fresh = record and isinstance(record.get("step"), int) and record.get("time", 0) >= since
    return record if fresh else None


def _order(report: dict[str, Any] | None) -> tuple[int, int]:
    if report is None:
        return -1, -1
    tick = report.get("tick")
    return report["step"], -1 if tick is None else tick


def _describe(report: dict[str, Any] | None) -> str:
    if report is None:
        return "it has written nothing since the start"
    tick, cell = report.get("tick"), report.get("cell")
    where = f"in step {report['step']}"
    if tick is not None:
        where += f", tick {tick}"
    return where + (f", {cell}" if cell else "")


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None  # the process died while it wrote this
    return record if isinstance(record, dict) else None
