"""The comparison of cuts: errors of the fit, and ratios of the calmer rounds."""

import pytest

from benchmarks import partition
from benchmarks.partition import Sizes
from seq1f1b_jax.schedule.simulation.cost_table import Row
from tests.schedule.made_costs import made_table

SIZES = Sizes(seq_len=1024, num_layers=4)


def test_an_error_is_of_the_fit_over_what_was_measured():
    table = made_table(1024, (128, 256, 512), num_layers=2)
    exact = next(row for row in table.rows if row.op == "B" and row.length == 256)
    slow = exact._replace(layers=2 * exact.layers)
    rows = partition.error_rows(SIZES, table, [exact, Row(*slow)])
    assert [row["error"] for row in rows] == pytest.approx([0.0, -0.5], abs=1e-6)
    assert rows[1]["measured"] == pytest.approx(2e3 * exact.layers)


def test_a_step_is_the_median_of_the_calmer_rounds():
    spans = [(0.0, 2.0), (10.0, 13.0), (20.0, 29.0), (40.0, 45.0)]
    rank = {
        "spans": {"even": spans}, "machine": {"even": [4.0, 6.0, 20.0, 9.0]},
        "predicted": {"even": 2.0}, "lengths": {"even": [512, 512]}, "losses": {"even": 5.5},
    }  # fmt: skip
    row = partition.step_row("even", [rank, rank])
    assert (row["measured"], row["measured_over_predicted"]) == (2.5, 1.25)
    assert (row["lengths"], row["rounds"], row["fastest"]) == ("512+512", 2, 2.0)


def test_the_three_runs_differ_by_their_partition_only():
    configs = {name: SIZES.config(name, "c.json") for name in partition.PARTITIONS}
    assert {name: c.schedule.partition for name, c in configs.items()} == {
        name: name for name in partition.PARTITIONS
    }
    assert len({c.data.seq_len for c in configs.values()}) == 1


@pytest.mark.slow
def test_the_whole_comparison_runs():
    values = partition.measured_values(partition.QUICK, rounds=1, seconds=0.0)
    assert values["measured_over_even"] > 0 and values["measured_over_balanced"] > 0
    assert values["measured_over_even_predicted"] <= 1 + 1e-9
    assert values["measured_over_balanced_predicted"] <= 1 + 1e-9
    assert len({round(row["loss"], 4) for row in values["steps"]}) == 1
