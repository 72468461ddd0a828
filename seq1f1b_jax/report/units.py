"""Units of axes, chosen by the largest number, and seconds as a person reads them."""

import math
from typing import NamedTuple


class Unit(NamedTuple):
    """A unit of an axis; `factor` leads to it from seconds or bytes."""

    name: str
    factor: float


def time_unit(longest_seconds: float) -> Unit:
    """Seconds, minutes or hours.

    Example:
      >>> time_unit(90).name, time_unit(7200).name
      ('s', 'min')
    """
    if longest_seconds <= 180:
        return Unit("s", 1)
    return Unit("min", 1 / 60) if longest_seconds <= 10800 else Unit("h", 1 / 3600)


def byte_unit(largest_bytes: float) -> Unit:
    """Decimal, as everywhere in this project.

    Example:
      >>> byte_unit(3e9)
      Unit(name='GB', factor=1e-09)
    """
    if largest_bytes >= 1e9:
        return Unit("GB", 1e-9)
    return Unit("MB", 1e-6) if largest_bytes >= 1e6 else Unit("kB", 1e-3)


def seconds_text(seconds: float) -> str:
    """A duration.

    Example:
      >>> [seconds_text(value) for value in (0.0123, 4.5, 75, 7500, float("nan"))]
      ['12.3 ms', '4.5 s', '1 min 15 s', '2 h 05 min', '-']
    """
    if not math.isfinite(seconds):
        return "-"
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"
