"""Overhead over the sum of the parts."""

import pytest

from benchmarks import weak_scaling
from benchmarks.weak_scaling import Work


def test_ratio_is_to_as_many_steps_of_one_device():
    seconds = {(1, 1, 1): [1.0, 9.0, 2.0], (2, 1, 2): [10.0, 8.0, 9.0]}
    rows = weak_scaling.table(seconds)
    assert [row["ratio"] for row in rows] == [1.0, 9.0 / (4 * 2.0)]
    assert rows[1]["devices"] == 4 and rows[1]["mesh"] == "2,1,2"


@pytest.mark.slow
def test_two_devices_do_the_work_of_two():
    work = Work(seq_len=64, model_dim=64, mlp_dim=64, num_layers=1, num_heads=1)
    meshes = ((1, 1, 1), (1, 2, 1))
    rows = weak_scaling.measure(meshes, work, repeats=1)
    assert [row["devices"] for row in rows] == [1, 2]
    assert all(row["cpu_seconds"] > 0 for row in rows)
