"""Curves: their points, their gaps, and groups of neighbours against a slow twin."""

import math

import numpy as np
import pytest

from seq1f1b_jax.report.curves import Curve, curve_of, group


def slow_groups(curve, size):
    for start in range(0, len(curve.step), size):
        steps, values = (part[start : start + size] for part in curve)
        finite = [value for value in values if math.isfinite(value)]
        mean = math.fsum(finite) / len(finite) if finite else math.nan
        low, high = (choose(finite, default=math.nan) for choose in (min, max))
        yield steps[0], steps[-1], mean, low, high


@pytest.mark.parametrize(
    ("count", "max_points", "size"),
    [(1, 10, 1), (10, 10, 1), (11, 10, 2), (30, 10, 3), (31, 10, 4), (37, 10, 4), (2, 1, 2)],
)
def test_groups_hold_mean_and_range_of_neighbours(count, max_points, size):
    draw = np.random.default_rng(count)
    value = draw.normal(size=count)
    value[draw.random(count) < 0.3] = np.nan
    curve = Curve(np.cumsum(draw.integers(1, 4, count)).astype(float), value)
    groups = group(curve, max_points=max_points)
    expected = list(zip(*slow_groups(curve, size), strict=True))
    assert groups.size == size and len(groups.mean) <= max_points
    # means of at most four numbers near 1, added in another order
    np.testing.assert_allclose(np.array(groups[1:]), np.array(expected), rtol=1e-14, atol=1e-15)


def test_a_group_without_a_finite_number_is_a_gap():
    groups = group(Curve(np.arange(4.0), np.array([1, 3, np.nan, np.nan])), max_points=2)
    np.testing.assert_array_equal([groups.mean, groups.low, groups.high],
                                  [[2, np.nan], [1, np.nan], [3, np.nan]])  # fmt: skip


def test_the_last_line_of_a_step_counts_and_what_is_no_finite_number_is_a_gap():
    lines = [{"step": 1, "loss": 1}, {"step": 0, "loss": 2}, {"step": 1, "loss": 3}]
    lines += [{"step": 2, "loss": None}, {"step": 3, "loss": 10**400}]
    lines += [{"step": 4, "loss": math.inf}]
    lines += [{"step": 10**400, "loss": 1}, {"step": -1, "loss": 1}, {"step": 5, "other": 1}]
    step, value = curve_of(lines, "loss")
    np.testing.assert_array_equal(step, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(value, [2, 3, np.nan, np.nan, np.nan])


def test_no_line_is_an_empty_curve_and_no_group():
    curve = curve_of([], "loss")
    assert len(curve.step) == len(group(curve).mean) == 0
