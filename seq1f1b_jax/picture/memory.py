"""One scale for the memory curves of a picture."""

from collections.abc import Sequence
from typing import NamedTuple

from seq1f1b_jax.picture.simulated import number_text
from seq1f1b_jax.picture.timeline import Timeline

_BYTES = (("GB", 1.0), ("MB", 1e3), ("kB", 1e6), ("bytes", 1e9))


class MemoryAxis(NamedTuple):
    """How the memory of one unit is drawn and written.

    Attributes:
      name: of the unit that is written: small sizes in GB are written in MB, kB or bytes.
      factor: from the timeline's unit to the written one.
      top: value, in the timeline's unit, that fills the height of a curve.
    """

    name: str
    factor: float
    top: float

    @property
    def heading(self) -> str:
        """Words over a column of peaks; the legend already names what is counted."""
        return f"peak {self.name}" if self.name in dict(_BYTES) else "peak"

    def text(self, value: float) -> str:
        """Write a value of a timeline, without the unit."""
        return number_text(value * self.factor)


def memory_axes(timelines: Sequence[Timeline]) -> dict[str, MemoryAxis]:
    """Give timelines that hold the same kind of thing the same scale.

    Args:
      timelines: of one picture.

    Returns:
      The scale of each `memory_unit` that occurs.
    """
    tops: dict[str, float] = {}
    for timeline in timelines:
        tops[timeline.memory_unit] = max(tops.get(timeline.memory_unit, 0), *timeline.peaks, 0)
    return {unit: _axis(unit, top) for unit, top in tops.items()}


def _axis(unit: str, top: float) -> MemoryAxis:
    if unit != "GB":
        return MemoryAxis(unit, 1, top or 1)
    for name, factor in _BYTES:
        if top * factor >= 0.1:
            return MemoryAxis(name, factor, top)
    return MemoryAxis("GB", 1, top or 1)
