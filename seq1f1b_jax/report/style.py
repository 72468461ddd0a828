"""How runs and bars look: one colour per run in every chart, apart for the colour-blind too.

plotly is imported when a figure is made, not before.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from seq1f1b_jax.paths import one_line

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

RUN_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f",
)  # fmt: skip
"""Of Okabe and Ito's palette those that stand out on white and on black, and grey."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
"""The next ones once the colours have been used."""
PART_COLOURS = (
    "#117733", "#cc6677", "#882255", "#dddddd", "#88ccee", "#332288", "#ddcc77", "#44aa99",
    "#aa4499", "#999933", "#6699cc", "#661100",
)  # fmt: skip
"""Of the parts of a bar: Tol's muted palette; of wall time, useful steps green, lost ones red."""
MAX_LABEL = 48
QUIET = "#767d88"
GRID = "rgba(127, 127, 127, 0.25)"
NAME = "%{fullData.name}"
"""In what the mouse shows: the name of what it is over, in which plotly looks for no more marks."""
CLEAR = "rgba(0, 0, 0, 0)"


def colour(index: int) -> str:
    """Of a run, by its place on the command line."""
    return RUN_COLOURS[index % len(RUN_COLOURS)]


def dash(index: int) -> str:
    """Of a run's lines, likewise."""
    return DASHES[index // len(RUN_COLOURS) % len(DASHES)]


def label(name: str) -> str:
    """A name in a chart, where `<`, `>` and `&` are marks: one line, its end if it is long.

    Example:
      >>> label("runs/<b>")
      'runs/&lt;b&gt;'
    """
    text = one_line(name)
    return html.escape(text if len(text) <= MAX_LABEL else f"…{text[1 - MAX_LABEL :]}", quote=False)


def ink_on(ground: str) -> str:
    """Black or white, whichever stands out on a colour.

    Example:
      >>> ink_on("#332288"), ink_on("#ddcc77")
      ('#ffffff', '#16181d')
    """
    red, green, blue = (int(ground[place : place + 2], 16) for place in (1, 3, 5))
    return "#16181d" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "#ffffff"


def swatch(index: int) -> str:
    """A square in the run's colour, before its name in a chart."""
    return f'<span style="color:{colour(index)}">■</span>'


def styled(figure: Figure, *, height: int, **layout: Any) -> Figure:
    """The same figure on clear ground, which light, dark and paper show through.

    Args:
      figure: is changed.
      height: in pixels; it is as wide as the page.
      layout: of plotly.
    """
    figure.update_layout(
        template="none", height=height, paper_bgcolor=CLEAR, plot_bgcolor=CLEAR,
        font={"family": "system-ui, sans-serif", "size": 12, "color": QUIET},
        hoverlabel={"bgcolor": "#ffffff", "font": {"color": "#16181d"}, "namelength": -1},
        legend={"orientation": "h", "yanchor": "bottom", "x": 0, "y": 1.02, "traceorder": "normal"},
        margin={"l": 70, "r": 20, "t": 40, "b": 50}, modebar={"bgcolor": CLEAR, "color": QUIET},
    )  # fmt: skip
    figure.for_each_xaxis(_axis)
    figure.for_each_yaxis(_axis)
    return figure.update_layout(**layout)


def _axis(axis: Any) -> None:
    lines = {"gridcolor": GRID, "showline": True, "linecolor": GRID, "zeroline": False}
    axis.update(automargin=True, title_standoff=6, **lines)


def to_html(figure: Figure, name: str) -> str:
    """A figure as a part of a page that has plotly's script already.

    Args:
      figure: to show.
      name: of the element.
    """
    config = {
        "responsive": True, "displaylogo": False, "toImageButtonOptions": {"format": "svg"},
        "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    }  # fmt: skip
    return figure.to_html(
        full_html=False, include_plotlyjs=False, div_id=name, config=config,
        default_width="100%", default_height=f"{figure.layout.height}px",
    )
