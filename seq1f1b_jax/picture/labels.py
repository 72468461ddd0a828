"""Which boxes can hold their label `microbatch.chunk`, and which way round."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

from seq1f1b_jax.picture.timeline import Span, Timeline

PADDING = 1.5  # free pixels on each side of a label


class Extent(NamedTuple):
    """Size of a written label in pixels."""

    width: float
    height: float


def shortened(text: str, *, width: float, measure: Callable[[str], Extent]) -> str:
    """Cut a text, with `…` for what is gone, until it fits.

    Args:
      text: one line.
      width: free pixels.
      measure: size of a text, in pixels.
    """
    if measure(text).width <= width:
        return text
    fitting = bisect_right(
        range(1, len(text)), width, key=lambda length: measure(text[:length] + "…").width
    )
    return text[:fitting].rstrip() + "…" if fitting else ""


class Label(NamedTuple):
    """A label that fits.

    Attributes:
      span: whose box holds it, in the middle.
      text: `2.1` for chunk 1 of microbatch 2.
      upright: turned by 90 degrees, to be read from below.
    """

    span: Span
    text: str
    upright: bool


def labels_of(
    timeline: Timeline,
    *,
    pixels_per_time: float,
    box_height: float,
    measure: Callable[[str], Extent],
) -> Iterator[Label]:
    """Find the labels that fit into their boxes: horizontal, else upright, else none.

    Args:
      timeline: whose boxes are meant.
      pixels_per_time: scale of the time axis.
      box_height: free height of every box, in pixels.
      measure: size of a text, in pixels.
    """
    for span in timeline.spans:
        text = f"{span.action.microbatch}.{span.action.chunk}"
        width = (span.end - span.start) * pixels_per_time - 2 * PADDING
        extent = measure(text)
        if extent.width <= width and extent.height <= box_height - 2 * PADDING:
            yield Label(span, text, upright=False)
        elif extent.height <= width and extent.width <= box_height - 2 * PADDING:
            yield Label(span, text, upright=True)
