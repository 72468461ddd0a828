"""Overhead over the sum of the parts."""

import threading

import pytest

from benchmarks import weak_scaling
from benchmarks.weak_scaling import Work


def test_ratio_is_of_the_medians():
    (row,) = weak_scaling.table({(2, 1, 2): ([10.0, 8.0, 9.0], [1.0, 9.0, 6.0])})
    assert row["ratio"] == 9.0 / 6.0
    assert row["devices"] == 4 and row["mesh"] == "2,1,2"


def test_parts_run_side_by_side():
    barrier = threading.Barrier(3, timeout=30)  # one after the other would wait for ever
    weak_scaling.side_by_side([barrier.wait] * 3)
    assert not barrier.broken


@pytest.mark.slow
def test_two_devices_do_the_work_of_two():
    work = Work(seq_len=64, model_dim=64, mlp_dim=64, num_layers=1, num_heads=1)
    meshes = ((1, 1, 1), (1, 2, 1))
    rows = weak_scaling.measure(meshes, work, repeats=1)
    assert [row["devices"] for row in rows] == [1, 2]
    assert all(row["cpu_seconds"] > 0 for row in rows)
