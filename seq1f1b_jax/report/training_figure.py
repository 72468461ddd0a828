"""Loss, held-out loss, learning rate, gradient norm and rates over the steps, runs overlaid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from seq1f1b_jax.report.curves import Curve, Groups, group
from seq1f1b_jax.report.run import Run
from seq1f1b_jax.report.style import NAME, colour, dash, label, styled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

FEW = 60
"""Points of a curve that are marked one by one."""
ROW_PIXELS = 290
COLUMNS = 2


class Panel(NamedTuple):
    """A chart of one number.

    Attributes:
      key: in `metrics.jsonl`.
      title: above the chart.
      unit: beside its axis.
      reference: key of a number to compare with, drawn dashed.
      logarithmic: whether the axis is, where all numbers are above 0.
    """

    key: str
    title: str
    unit: str
    reference: str | None = None
    logarithmic: bool = False


PANELS = (
    Panel("loss", "Training loss", "nats per target"),
    Panel("held_out_loss", "Held-out loss; dashed: bigram model", "nats per target", "bigram_loss"),
    Panel("learning_rate", "Learning rate", "learning rate"),
    Panel("grad_norm", "Gradient norm before clipping", "norm", logarithmic=True),
    Panel("tokens_per_second", "Tokens per second", "tokens/s"),
    Panel("model_flops_per_second", "Model FLOP/s of all devices", "FLOP/s"),
)


def training_figure(runs: Sequence[Run]) -> Figure:
    """All panels of which some run has a number, on one axis of steps.

    Args:
      runs: to overlay; a click on one in the legend hides it everywhere.
    """
    from plotly.subplots import make_subplots

    panels = [panel for panel in PANELS if any(len(run.curve(panel.key).step) for run in runs)]
    rows = -(-len(panels) // COLUMNS)
    figure = make_subplots(
        rows, COLUMNS, subplot_titles=[panel.title for panel in panels], horizontal_spacing=0.1,
        vertical_spacing=0.3 / rows,
    )
    named: set[int] = set()  # runs that the legend has
    for number, panel in enumerate(panels):
        place = {"row": number // COLUMNS + 1, "col": number % COLUMNS + 1}
        for index, run in enumerate(runs):
            for trace in _traces(run, index, panel):
                trace.showlegend = index not in named and trace.fill is None
                if trace.showlegend:
                    named.add(index)
                figure.add_trace(trace, **place)
        form = "~s" if panel.unit.endswith("/s") else "~g"  # ~s: 2k, 15G
        scale = _scale(panel, runs)
        figure.update_yaxes(title_text=panel.unit, tickformat=form, **scale, **place)
        figure.update_xaxes(matches="x" if number else None, **place)  # zoomed together
    title = {"text": "step %{x}"}
    figure.update_xaxes(title_text="step", rangemode="tozero", unifiedhovertitle=title)
    styled(figure, height=ROW_PIXELS * rows + 60, hovermode="x unified", showlegend=len(runs) > 1)
    return figure.update_annotations(font_size=14)


def thinned(runs: Sequence[Run]) -> list[str]:
    """Of which runs curves are drawn in groups, and in how large ones: words for the page."""
    sizes = {run.name: group(run.curve("loss")).size for run in runs}
    return [
        f"{name}: each point is the mean of {size} neighbouring steps, in a band from their "
        "lowest to their highest"
        for name, size in sizes.items()
        if size > 1
    ]


def _traces(run: Run, index: int, panel: Panel) -> Iterator[Scatter]:
    from plotly.graph_objects import Scatter

    curve = run.curve(panel.key)
    if not len(curve.step):
        return
    groups = group(curve)
    common: dict[str, Any] = {"legendgroup": str(index), "name": label(run.name)}
    if groups.size > 1:
        yield _band(groups, common, colour(index))
    yield Scatter(
        x=groups.last, y=groups.mean, mode="lines+markers" if len(curve.step) <= FEW else "lines",
        line={"color": colour(index), "dash": dash(index), "width": 1.6},
        marker={"size": 5}, customdata=_ranges(groups), hovertemplate=_hover(groups),
        **common,
    )  # fmt: skip
    if panel.reference is not None and len((other := run.curve(panel.reference)).step):
        yield _reference(group(other), common, index)


def _band(groups: Groups, common: dict[str, Any], tint: str) -> Scatter:
    from plotly.graph_objects import Scatter

    kept = np.isfinite(groups.mean)
    there, back = groups.last[kept], groups.last[kept][::-1]
    return Scatter(
        x=np.append(there, back), y=np.append(groups.high[kept], groups.low[kept][::-1]),
        mode="lines", line={"width": 0, "color": tint}, fill="toself", opacity=0.3,
        hoverinfo="skip", **common,
    )  # fmt: skip


def _reference(groups: Groups, common: dict[str, Any], index: int) -> Scatter:
    from plotly.graph_objects import Scatter

    return Scatter(
        x=groups.last, y=groups.mean, mode="lines+markers",
        line={"color": colour(index), "dash": "dash", "width": 1}, marker={"size": 3},
        hovertemplate=f"%{{y:.5g}}<extra>{NAME}, bigram model</extra>", **common,
    )  # fmt: skip


def _ranges(groups: Groups) -> np.ndarray | None:
    if groups.size == 1:
        return None
    return np.stack([groups.first, groups.last, groups.low, groups.high], axis=1)


def _hover(groups: Groups) -> str:
    if groups.size == 1:
        return f"%{{y:.5g}}<extra>{NAME}</extra>"
    return (
        "%{y:.5g}, mean of steps %{customdata[0]:.0f} to %{customdata[1]:.0f}, from "
        f"%{{customdata[2]:.5g}} to %{{customdata[3]:.5g}}<extra>{NAME}</extra>"
    )


def _scale(panel: Panel, runs: Sequence[Run]) -> dict[str, str]:
    """Of a panel's axis: linear, or logarithmic with ticks at 1, 2 and 5 if decades are few."""
    curves: list[Curve] = [run.curve(panel.key) for run in runs]
    values = np.concatenate([curve.value[np.isfinite(curve.value)] for curve in curves])
    if not panel.logarithmic or not len(values) or values.min() <= 0:
        return {"type": "linear"}
    return {"type": "log"} | ({"dtick": "D2"} if values.max() < 1e3 * values.min() else {})
