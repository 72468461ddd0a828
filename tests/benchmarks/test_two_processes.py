"""The comparison of two schedules: same attention, a prediction by the simulator, small runs."""

from itertools import accumulate

import pytest

from benchmarks import two_processes
from benchmarks.two_processes import Sizes
from seq1f1b_jax.ops.attention.blockwise import BLOCK
from seq1f1b_jax.ops.pairs import causal_pairs


def visited(lengths):
    """(rows, cols, first query, first key) of every pair of blocks of a sequence."""
    return sorted(
        (pairs.rows, pairs.cols, pairs.causal, int(query) + offset, int(key))
        for offset, length in zip(accumulate(lengths, initial=0), lengths, strict=False)
        for pairs in causal_pairs(length, offset, block=BLOCK)
        for query, key in pairs.starts
    )


def test_both_schedules_visit_the_same_pairs_of_blocks():
    cuts = Sizes().cuts
    assert visited(cuts["seq1f1b"]) == visited(cuts["1f1b"])
    assert visited((1200, 1104, 1024, 768)) != visited(cuts["1f1b"])


@pytest.mark.parametrize(("name", "num_chunks", "wanted"), [("1f1b", 1, 9.0), ("seq1f1b", 4, 6.75)])
def test_equal_chunks_leave_three_quarters(name, num_chunks, wanted):
    stage = {"F": [1 / num_chunks] * num_chunks, "B": [2 / num_chunks] * num_chunks}
    assert two_processes.predict(name, [stage, stage]) == wanted


def test_medians_are_per_chunk():
    turns = [{"F": [1.0, 8.0], "B": [3.0, 3.0]}, {"F": [2.0, 9.0], "B": [5.0, 4.0]}] * 2
    assert two_processes.median_actions(turns) == {"F": [1.5, 8.5], "B": [4.0, 3.5]}


def test_only_the_calmer_rounds_count():
    assert two_processes.calmer_half([0.3, 0.0, 1.5, 0.1, 0.2]) == [1, 3, 4]

    def rank(own):
        spans = [(0.0, 2.0), (10.0, 13.0)]
        return {
            "spans": {"1f1b": spans}, "own": {"1f1b": own}, "machine": {"1f1b": [6.0, 3.3]},
            "attention": {"1f1b": [0.5, 0.5]}, "losses": {"1f1b": 1.0},
        }  # fmt: skip

    row = two_processes.row("1f1b", Sizes(), [rank([2.0, 1.0]), rank([2.0, 2.0])], predicted=2.0)
    assert (row["measured"], row["measured_over_predicted"], row["fastest"]) == (3.0, 1.5, 2.0)
    assert (row["rounds"], row["own_cpu_seconds"], row["all_cpu_seconds"]) == (1, 3.0, 3.3)


def test_action_rows_name_operation_and_chunk():
    rows = two_processes.action_rows({"seq1f1b": [{"F": [1.0, 2.0], "B": [3.0, 4.0]}]})
    assert list(rows) == [
        {"schedule": "seq1f1b", "stage": 0, "all": 10.0, "F0": 1.0, "F1": 2.0, "B0": 3.0, "B1": 4.0}
    ]


@pytest.mark.slow
def test_toy_sizes_run_in_two_processes():
    sizes = Sizes(model_dim=64, vocab_size=16, lengths=(32, 24, 24, 16))
    values = two_processes.measure(sizes, rounds=1)
    assert len({round(row["loss"], 5) for row in values["steps"]}) == 1
    assert len(values["actions"]["seq1f1b"][0]["B"]) == 4
    assert values["seq1f1b_over_1f1b_predicted"] > 0
