"""Numbers over the steps of a run, and how many of them are drawn."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

MAX_POINTS = 2000
"""Of a curve that are drawn one by one; longer ones are drawn in groups of neighbours."""
MAX_STEP = 2**53


class Curve(NamedTuple):
    """A number over steps, which ascend and count from 1; NaN where it was not finite."""

    step: Float[ndarray, "n"]
    value: Float[ndarray, "n"]


class Groups(NamedTuple):
    """Neighbours of a curve in groups of `size`, the last one shorter; NaN where none is finite.

    Attributes:
      first: step of the first of each group; `last` likewise.
      mean: of the finite values; `low` and `high` are their range.
    """

    size: int
    first: Float[ndarray, "g"]
    last: Float[ndarray, "g"]
    mean: Float[ndarray, "g"]
    low: Float[ndarray, "g"]
    high: Float[ndarray, "g"]


def curve_of(lines: Iterable[Mapping[str, Any]], key: str) -> Curve:
    """One key of the lines of `metrics.jsonl`; of lines of the same step the last counts.

    Example:
      >>> curve_of([{"step": 1, "loss": None}, {"step": 0, "loss": 2.5}], "loss")
      Curve(step=array([1., 2.]), value=array([2.5, nan]))
    """
    found = {line["step"]: line[key] for line in lines if key in line}
    steps = sorted(step for step in found if 0 <= step < MAX_STEP)
    values = [_number(found[step]) for step in steps]
    return Curve(np.array(steps, float) + 1, np.array(values, float))


def group(curve: Curve, *, max_points: int = MAX_POINTS) -> Groups:
    """Join so many neighbours that at most `max_points` groups remain; single points if possible.

    Nothing is lost from sight: a group keeps its range beside its mean.

    Example:
      >>> import numpy as np
      >>> group(Curve(np.arange(1.0, 5.0), np.array([1.0, 3.0, 9.0, 5.0])), max_points=2).mean
      array([2., 7.])
    """
    size = max(1, math.ceil(len(curve.step) / max_points))
    num_groups = math.ceil(len(curve.step) / size)
    padded = np.full(num_groups * size, np.nan)
    padded[: len(curve.value)] = curve.value
    rows = padded.reshape(num_groups, size)
    finite = np.isfinite(rows)
    count = finite.sum(axis=1)
    empty = np.where(count > 0, 0.0, np.nan)
    return Groups(
        size,
        first=curve.step[::size],
        last=np.append(curve.step[size - 1 :: size], curve.step[-1:])[:num_groups],
        mean=np.where(finite, rows, 0).sum(axis=1) / np.maximum(count, 1) + empty,
        low=np.where(finite, rows, np.inf).min(axis=1, initial=np.inf) + empty,
        high=np.where(finite, rows, -np.inf).max(axis=1, initial=-np.inf) + empty,
    )


def _number(value: float | None) -> float:
    try:
        number = math.nan if value is None else float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.nan
    return number if math.isfinite(number) else math.nan
