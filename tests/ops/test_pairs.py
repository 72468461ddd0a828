"""The pairs of blocks are data: checked against the mask they stand for, without any attention."""

import numpy as np
import pytest

from seq1f1b_jax.ops.blocks import Blocks, cut
from seq1f1b_jax.ops.pairs import causal_pairs

CASES = [  # (num_tokens, offset, block)
    (1, 0, 4), (4, 0, 4), (8, 0, 4), (8, 8, 4), (8, 3, 4), (7, 5, 4), (13, 0, 4), (13, 29, 4),
    (3, 21, 8), (3, 16, 8), (12, 1, 5), (31, 64, 16),
]


@pytest.mark.parametrize("num_tokens, offset, block", CASES)
def test_every_visible_score_exactly_once_and_no_hidden_one(num_tokens, offset, block):
    times = np.zeros((num_tokens, offset + num_tokens), int)
    for pairs in causal_pairs(num_tokens, offset, block=block):
        scores = np.ones((pairs.rows, pairs.cols), int)
        for query, key in pairs.starts:
            part = times[query : query + pairs.rows, key : key + pairs.cols]
            part += np.tril(scores) if pairs.causal else scores
    visible = np.tri(num_tokens, offset + num_tokens, offset, dtype=int)
    np.testing.assert_array_equal(times, visible)


@pytest.mark.parametrize("num_tokens, offset, block", CASES)
def test_masks_only_on_the_diagonal_one_per_query_block(num_tokens, offset, block):
    loops = causal_pairs(num_tokens, offset, block=block)
    size, count, tail = cut(num_tokens, block)
    masked = [start for pairs in loops if pairs.causal for start in pairs.starts.tolist()]
    assert masked == [[i * size, offset + i * size] for i in range(count + bool(tail))]
    assert all(pairs.rows == pairs.cols <= block for pairs in loops if pairs.causal)
    assert len(loops) <= 6


def test_aligned_lengths_need_two_loops_and_no_computation_above_the_diagonal():
    loops = causal_pairs(4 * 128, 8 * 128, block=128)
    assert [(p.rows, p.cols, p.causal, len(p.starts)) for p in loops] == [
        (128, 128, True, 4), (128, 128, False, 4 * 8 + 6)
    ]


def test_short_chunk_reads_its_prefix_in_whole_blocks():
    loops = causal_pairs(16, 64, block=32)
    assert [(p.rows, p.cols, len(p.starts)) for p in loops] == [(16, 16, 1), (16, 32, 2)]


@pytest.mark.parametrize(
    "length, limit, expected",
    [
        (5, 8, Blocks(5, 1, 0)), (8, 8, Blocks(8, 1, 0)), (24, 8, Blocks(8, 3, 0)),
        (18, 8, Blocks(6, 3, 0)), (13, 8, Blocks(8, 1, 5)), (17, 4, Blocks(4, 4, 1)),
        (3, 1, Blocks(1, 3, 0)),
    ],
)
def test_cut_prefers_a_divisor(length, limit, expected):
    assert cut(length, limit) == expected
    assert expected.size * expected.count + expected.tail == length


@pytest.mark.parametrize(
    "call, given",
    [
        (lambda: causal_pairs(8, -1, block=4), "offset=-1"),
        (lambda: cut(0, 4), "length=0"),
        (lambda: cut(8, 0), "limit=0"),
    ],
)
def test_impossible_sizes_name_what_was_given(call, given):
    with pytest.raises(ValueError, match=given):
        call()
