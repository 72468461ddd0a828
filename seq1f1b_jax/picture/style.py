"""What a box looks like: its colour shows the microbatch, its shade the chunk, its tone the op.

The four operations are in separate bands of CIE lightness, so they stay apart in grey print, and
`W` is hatched besides:

    W 93..97 hatched    F 76..86    I 52..62    B 29..42        (0 black, 100 white)

Within a band the first chunk is the lightest. Hues alternate between the warm and the cold side,
the one contrast that every common form of colour blindness keeps.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from seq1f1b_jax.schedule import Op


class OpStyle(NamedTuple):
    """How the boxes of one operation are drawn.

    Attributes:
      meaning: words of the legend.
      light: CIE lightness of the first chunk.
      dark: CIE lightness of the last chunk.
      chroma: CIE chroma, as far as the screen can show it.
      hatched: whether lines cross the box.
      ink: colour of the label.
    """

    meaning: str
    light: float
    dark: float
    chroma: float
    hatched: bool
    ink: str


OP_STYLES = {
    Op.F: OpStyle("forward", 86, 76, 42, False, "#16181d"),
    Op.B: OpStyle("backward", 42, 29, 50, False, "#ffffff"),
    Op.I: OpStyle("input gradient", 62, 52, 55, False, "#0b0c0f"),
    Op.W: OpStyle("weight gradient", 97, 93, 14, True, "#16181d"),
}

HUES = (70, 246, 118, 316, 46, 214, 92, 288)
"""Hue angles of CIE LCh by microbatch: orange, blue, green, magenta, red, cyan, olive, violet."""

WAITING = "#f0f1f4"
"""Row behind the boxes: where it shows, the rank waits."""

HATCH = "#5a6069"
INK = "#16181d"
QUIET_INK = "#59606b"
RULE = "#cdd2d9"
MEMORY = "#76808f"


def fill(op: Op, microbatch: int, chunk: int, num_chunks: int) -> str:
    """Colour of a box.

    Args:
      op: chooses the band of lightness.
      microbatch: chooses the hue; hues repeat after `len(HUES)` microbatches.
      chunk: chooses the shade within the band.
      num_chunks: shades that share the band.

    Returns:
      An sRGB colour like `#d9c79a`.
    """
    return _fill(op, microbatch % len(HUES), chunk, num_chunks)


@cache
def _fill(op: Op, family: int, chunk: int, num_chunks: int) -> str:
    style = OP_STYLES[op]
    depth = chunk / (num_chunks - 1) if num_chunks > 1 else 0.5
    lightness = style.light + depth * (style.dark - style.light)
    return lch_colour(lightness, style.chroma, HUES[family])


def lch_colour(lightness: float, chroma: float, hue: float) -> str:
    """Write a colour of CIE LCh (D65) in sRGB, with less chroma where the screen cannot show it.

    Args:
      lightness: 0 (black) to 100 (white); alone decides the grey of a print.
      chroma: distance from grey.
      hue: angle in degrees.

    Returns:
      An sRGB colour like `#d9c79a`.
    """
    while True:
        channels = _linear_srgb(lightness, chroma, hue)
        if chroma <= 0 or (channels.min() >= 0 and channels.max() <= 1):
            break
        chroma -= 1
    channels = np.clip(channels, 0, 1)
    encoded = np.where(
        channels > 0.0031308, 1.055 * channels ** (1 / 2.4) - 0.055, 12.92 * channels
    )
    return "#" + "".join(f"{round(255 * float(value)):02x}" for value in encoded)


_WHITE = np.array([0.95047, 1.0, 1.08883])  # XYZ of D65
_TO_SRGB = np.array(
    [
        [3.2404542, -1.5371385, -0.4985314],
        [-0.9692660, 1.8760108, 0.0415560],
        [0.0556434, -0.2040259, 1.0572252],
    ]
)


def _linear_srgb(lightness: float, chroma: float, hue: float) -> np.ndarray:
    angle = np.deg2rad(hue)
    middle = (lightness + 16) / 116
    roots = np.array(
        [middle + chroma * np.cos(angle) / 500, middle, middle - chroma * np.sin(angle) / 200]
    )
    xyz = _WHITE * np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29))
    return _TO_SRGB @ xyz
