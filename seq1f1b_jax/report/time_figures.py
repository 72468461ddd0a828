"""Where the time of runs went: parts of their wall time, and steps over the clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from seq1f1b_jax.report.bars import Bar, stacked
from seq1f1b_jax.report.curves import MAX_POINTS
from seq1f1b_jax.report.run import Run
from seq1f1b_jax.report.style import NAME, colour, dash, label, styled, swatch
from seq1f1b_jax.report.units import seconds_text, time_unit
from seq1f1b_jax.training.reports.events import STEP
from seq1f1b_jax.training.reports.goodput import MEANINGS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HEIGHT = 340


class Attempt(NamedTuple):
    """Steps of one start of a run.

    Attributes:
      seconds: since the run's first start, at the beginning of the first step and at every end.
      steps: finished then.
    """

    seconds: list[float]
    steps: list[int]


def parts_figure(runs: Sequence[Run]) -> Figure | None:
    """The wall time of each run in parts, pauses included; None where none has recorded it."""
    bars = [
        Bar(f"{label(run.name)} {swatch(index)}", run.goodput.seconds)
        for index, run in enumerate(runs)
        if run.goodput is not None and run.goodput.wall_seconds > 0
    ]
    if not bars:
        return None
    unit = time_unit(max(sum(bar.parts.values()) for bar in bars))
    return stacked(
        bars, axis=f"time ({unit.name})", factor=unit.factor, text=seconds_text, meanings=MEANINGS
    )


def progress_figure(runs: Sequence[Run]) -> Figure | None:
    """Finished steps over the time since each run's first start; None where none has recorded it.

    A line per attempt: a gap is time between attempts, a fall is what was done again.
    """
    from plotly.graph_objects import Figure, Scatter

    found = {index: list(attempts(run)) for index, run in enumerate(runs)}
    ends = [attempt.seconds[-1] for each in found.values() for attempt in each]
    if not ends:
        return None
    unit, figure = time_unit(max(ends)), Figure()
    for index, each in found.items():
        name = label(runs[index].name)
        for number, attempt in enumerate(each):
            some = _some(len(attempt.steps))
            figure.add_trace(Scatter(
                x=[attempt.seconds[point] * unit.factor for point in some],
                y=[attempt.steps[point] for point in some], mode="lines+markers",
                line={"color": colour(index), "dash": dash(index)},
                marker={"size": [9, *[0] * (len(some) - 1)], "symbol": "triangle-right"},
                name=name, legendgroup=str(index), showlegend=number == 0,
                hovertemplate=f"step %{{y}} at %{{x:.4g}} {unit.name}, start {number + 1} of "
                f"{len(each)}<extra>{NAME}</extra>",
            ))  # fmt: skip
    styled(figure, height=HEIGHT, showlegend=len(runs) > 1, hovermode="closest")
    figure.update_xaxes(title_text=f"time since the first start ({unit.name})", rangemode="tozero")
    figure.update_yaxes(title_text="finished steps", rangemode="tozero")
    return figure


def attempts(run: Run) -> Iterator[Attempt]:
    """The attempts of a run that have begun a step, in their order."""
    if not run.phases:
        return
    first = run.phases[0].begin
    for attempt in sorted({phase.attempt for phase in run.phases}):
        steps = [
            (phase.begin - first, phase.end - first, phase.step)
            for phase in run.phases
            if phase.attempt == attempt and phase.name == STEP and phase.step is not None
        ]
        if steps:
            begin, _, step = steps[0]
            ends, finished = [end for _, end, _ in steps], [step + 1 for *_, step in steps]
            yield Attempt([begin, *ends], [step, *finished])


def _some(count: int) -> list[int]:
    """Places of points that stand for all: steps follow each other, so none hides a jump."""
    if count <= MAX_POINTS:
        return list(range(count))
    return [round(place * (count - 1) / (MAX_POINTS - 1)) for place in range(MAX_POINTS)]
