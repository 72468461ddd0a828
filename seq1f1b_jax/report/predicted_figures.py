"""Memory of a device and time of a step: predicted, compiled, measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from seq1f1b_jax.host.sizes import size_text
from seq1f1b_jax.report.bars import Bar, stacked
from seq1f1b_jax.report.run import Run
from seq1f1b_jax.report.style import label, swatch
from seq1f1b_jax.report.units import byte_unit, seconds_text, time_unit

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

STATE, TEMPORARIES, IN_USE = "parameters, optimizer", "temporaries", "in use at the peak"
COMPUTING, WAITING = "step", "waiting for the batch"


def memory_figure(runs: Sequence[Run]) -> Figure | None:
    """Bytes of one device in bars; None where no run has a figure."""
    bars = [bar for index, run in enumerate(runs) for bar in _memory_bars(run, index)]
    if not bars:
        return None
    unit = byte_unit(max(sum(bar.parts.values()) for bar in bars))
    return stacked(bars, axis=f"memory of one device ({unit.name})", factor=unit.factor,
                   text=size_text)  # fmt: skip


def step_figure(runs: Sequence[Run]) -> Figure | None:
    """Seconds of one step in bars; None where no run has predicted them."""
    predicted = any(run.prediction and run.prediction.step_seconds for run in runs)
    bars = [bar for index, run in enumerate(runs) for bar in _step_bars(run, index)]
    if not predicted or not bars:
        return None
    unit = time_unit(max(sum(bar.parts.values()) for bar in bars))
    return stacked(bars, axis=f"time of one step ({unit.name})", factor=unit.factor,
                   text=seconds_text)  # fmt: skip


def memory_parts(run: Run) -> dict[str, dict[str, float]]:
    """Bytes of one device by part, `predicted`, `compiled` and `measured`, as far as known."""
    found = {}
    if run.prediction is not None:
        terms = {name.replace("_", " "): size for name, size in run.prediction.step_bytes.items()}
        ordered = dict(sorted(terms.items(), key=lambda item: -item[1]))
        found["predicted"] = {STATE: run.prediction.state_bytes, **ordered}
    if {"arguments", "temporaries"} <= run.memory.keys():
        kept, made = run.memory["arguments"], run.memory["temporaries"]
        found["compiled"] = {STATE: kept, TEMPORARIES: made}
    if "peak" in run.memory:
        found["measured"] = {IN_USE: run.memory["peak"]}
    return found


def _memory_bars(run: Run, index: int) -> Iterator[Bar]:
    for kind, parts in memory_parts(run).items():
        yield Bar(_title(run, index, kind), parts)


def _step_bars(run: Run, index: int) -> Iterator[Bar]:
    if run.prediction is not None and run.prediction.step_seconds:
        yield Bar(_title(run, index, "predicted"), run.prediction.step_seconds)
    if np.isfinite(run.step_seconds):
        waited = run.curve("data_seconds").value
        waiting = float(np.median(waited[np.isfinite(waited)])) if len(waited) else 0.0
        parts = {COMPUTING: run.step_seconds - waiting, WAITING: waiting}
        yield Bar(_title(run, index, "measured (median)"), parts)


def _title(run: Run, index: int, kind: str) -> str:
    return f"{label(run.name)} {swatch(index)}<br>{kind}"
