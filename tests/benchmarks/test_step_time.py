"""Predicted beside measured steps of two processes, at toy sizes."""

import pytest

from benchmarks import step_time
from benchmarks.two_processes import Sizes


def test_the_grid_varies_what_it_says():
    assert len(step_time.CASES) == len(set(step_time.CASES)) == 8
    for case in step_time.CASES:
        assert sum(case.lengths) == 3072 and case.plan.num_chunks == len(case.lengths)


@pytest.mark.slow
def test_toy_sizes_run_in_two_processes():
    sizes = Sizes(model_dim=64, vocab_size=16, lengths=(32, 24, 24, 16))
    values = step_time.measure(sizes, step_time.TOY, rounds=1)
    assert len(values["rows"]) == 2 and values["max_time_error"] >= values["median_time_error"]
    assert len({round(row["loss"], 4) for row in values["rows"]}) == 1
    assert all(row["predicted"] > 0 and row["measured"] > 0 for row in values["rows"])
