"""What every benchmark prints: tables, the machine it ran on, one last line of JSON."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax


def machine_facts() -> dict[str, Any]:
    """Processor, cores, load, devices, versions and the commit of the checkout."""
    devices = jax.devices()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu_model": _cpu_model(),
        "cores": os.cpu_count(),
        "load_average_1min": load,
        "device": devices[0].device_kind,
        "num_devices": len(devices),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "commit": _commit(),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under the names of their fields, columns aligned; missing fields are blank.

    Example:
      >>> print(table([{"C": 1, "MB": 2.5}, {"C": 4}]))
      C  MB
      1  2.500
      4
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names] + [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one titled table."""
    print(f"\n{title}\n{table(rows)}", flush=True)


def finish(values: Mapping[str, Any], *, path: str | os.PathLike | None = None) -> None:
    """Print the last line, JSON with the values and the machine; also write it to `path`."""
    line = json.dumps({**values, "machine": machine_facts()})
    if path is not None:
        Path(path).write_text(line + "\n", encoding="utf-8")
    print(line, flush=True)


def median_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Median, and (largest - smallest) / median.

    Example:
      >>> median_and_spread([1.0, 2.0, 3.0])
      (2.0, 1.0)
    """
    median = statistics.median(values)
    return median, (max(values) - min(values)) / median


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1 else (
        f"{value:.3f}" if isinstance(value, float) else str(value)
    )


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Short hash, with `+` if the checkout has changes; `None` outside a checkout."""
    folder = Path(__file__).parent
    try:
        name = _git(folder, "rev-parse", "--short", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
