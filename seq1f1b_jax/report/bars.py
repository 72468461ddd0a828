"""Bars in parts, one below the other: what a run's bytes or seconds consist of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from seq1f1b_jax.report.style import NAME, PART_COLOURS, ink_on, label, styled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

ROW_PIXELS = 46


class Bar(NamedTuple):
    """One bar.

    Attributes:
      title: left of it, in plotly's marks.
      parts: sizes by name, in the order in which they are drawn.
    """

    title: str
    parts: Mapping[str, float]


def stacked(
    bars: Sequence[Bar], *, axis: str, factor: float, text: Callable[[float], str],
    meanings: Mapping[str, str] | None = None,
) -> Figure:
    """Draw bars, top to bottom; a part has one colour in all of them, parts of size 0 none.

    Args:
      bars: at least one.
      axis: words below the axis, with the unit.
      factor: from a part to the axis's unit.
      text: of a size, for people.
      meanings: of all parts that there may be, by name, for the mouse; each then has its colour in
        every figure.
    """
    from plotly.graph_objects import Bar as Trace
    from plotly.graph_objects import Figure, Scatter

    figure, rows = Figure(), list(range(len(bars)))
    present = dict.fromkeys(name for bar in bars for name, size in bar.parts.items() if size)
    for number, part in enumerate(dict.fromkeys([*(meanings or ()), *present])):
        if part not in present:
            continue
        sizes = [bar.parts.get(part, 0) for bar in bars]
        shares = [bar.parts.get(part, 0) / (sum(bar.parts.values()) or 1) for bar in bars]
        words = [f"{text(s)}, {share:.1%}" for s, share in zip(sizes, shares, strict=True)]
        tint = PART_COLOURS[number % len(PART_COLOURS)]
        more = f"<br>{meanings[part]}" if meanings and part in meanings else ""
        figure.add_trace(Trace(
            x=[size * factor for size in sizes], y=rows, orientation="h", name=label(part),
            marker={"color": tint, "line": {"color": "#ffffff", "width": 0.5}},
            text=[label(part) if size else "" for size in sizes], textposition="inside",
            textangle=0, insidetextanchor="middle", insidetextfont={"color": ink_on(tint)},
            customdata=words,
            hovertemplate=f"{NAME}: %{{customdata}}{more}<extra></extra>",
        ))  # fmt: skip
    totals = [sum(bar.parts.values()) for bar in bars]
    figure.add_trace(Scatter(
        x=[total * factor for total in totals], y=rows, mode="text", showlegend=False,
        text=[f" {text(total)}" for total in totals], textposition="middle right",
        cliponaxis=False, hoverinfo="skip",
    ))  # fmt: skip
    styled(
        figure, height=ROW_PIXELS * len(bars) + 130, barmode="stack", bargap=0.3,
        uniformtext={"minsize": 9, "mode": "hide"}, hovermode="closest",
    )
    longest = max(totals) * factor
    figure.update_xaxes(title_text=axis, range=[0, 1.15 * longest or 1])
    titles = [bar.title for bar in bars]
    figure.update_yaxes(
        tickvals=rows, ticktext=titles, range=[len(bars) - 0.5, -0.5], showgrid=False,
    )  # fmt: skip
    return figure
