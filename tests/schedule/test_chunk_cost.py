"""The cost of a chunk: counted once more by hand, in another way."""

from dataclasses import replace

import numpy as np
import pytest

from seq1f1b_jax.schedule import StageCost, balanced_lengths

SMALL = StageCost(
    model_dim=6,
    num_heads=4,
    num_kv_heads=2,
    head_dim=3,
    mlp_dim=10,
    gated=True,
    vocab_size=11,
    layers_per_stage=(2, 1),
)


def _layer_by_hand(start, length):
    """Every matmul and every visible query-key pair of SMALL, one by one."""
    shapes = [(6, 12), (6, 6), (6, 6), (12, 6), (6, 10), (6, 10), (10, 6)]  # q k v o, MLP
    matmuls = sum(2 * length * rows * columns for rows, columns in shapes)
    pairs = sum(1 for i in range(start, start + length) for key in range(999) if key <= i)
    return matmuls + pairs * 4 * (4 * 3), 2 * matmuls + pairs * 4 * (10 * 3)


@pytest.mark.parametrize(("start", "length"), [(0, 1), (0, 8), (5, 3), (7, 1)])
def test_layers_and_head_are_counted(start, length):
    forward, backward = _layer_by_hand(start, length)
    head = 3 * 2 * length * 6 * 11
    at = {"start": start, "length": length}
    assert SMALL.forward(0, **at) == 2 * forward
    assert SMALL.forward(1, **at) == forward + head
    assert SMALL.backward(0, **at) == 2 * backward
    assert SMALL.backward(1, **at) == backward
    assert SMALL(start, length) == max(2 * (forward + backward), forward + backward + head)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_chunk_cost_is_that_of_the_slowest_stage(num_ranks):
    for vocab_size in (1, 10**4):
        cost = replace(SMALL, vocab_size=vocab_size, layers_per_stage=(3, 1, 2)[:num_ranks])
        at = {"start": 4, "length": 9}
        stages = [cost.forward(s, **at) + cost.backward(s, **at) for s in range(num_ranks)]
        assert cost(4, 9) == max(stages)


def test_full_residuals_run_the_forward_of_the_layers_again():
    full = replace(SMALL, recompute="full")
    at = {"start": 5, "length": 3}
    for stage in range(2):
        layers, _ = _layer_by_hand(5, 3)
        assert full.forward(stage, **at) == SMALL.forward(stage, **at)
        extra = full.backward(stage, **at) - SMALL.backward(stage, **at)
        assert extra == SMALL.layers_per_stage[stage] * layers
    assert replace(SMALL, recompute="none")(5, 3) == SMALL(5, 3)


def test_a_plain_mlp_has_two_matmuls_and_sequences_multiply():
    plain = replace(SMALL, gated=False)
    at = {"start": 0, "length": 8}
    assert SMALL.forward(0, **at) - plain.forward(0, **at) == 2 * (2 * 8 * 6 * 10)
    assert replace(SMALL, num_sequences=3)(5, 3) == 3 * SMALL(5, 3)


def test_arrays_hold_every_stage_and_chunk():
    lengths = (4, 3, 2)
    forward, backward = SMALL.forward_costs(lengths), SMALL.backward_costs(lengths)
    assert forward.shape == backward.shape == (2, 3)
    assert forward[1, 2] == SMALL.forward(1, start=7, length=2)
    assert backward[0, 1] == SMALL.backward(0, start=4, length=3)


def test_cutting_a_sequence_changes_no_work():
    for stage in range(2):
        whole = SMALL.forward_costs((9,))[stage].sum()
        assert SMALL.forward_costs((4, 3, 2))[stage].sum() == whole


def test_splits_of_the_published_sizes_are_near_the_published_ones():
    """Ours count backward attention as 2.5 forwards, theirs as 2: later chunks get shorter."""
    cost = StageCost(
        model_dim=2560,
        num_heads=32,
        num_kv_heads=32,
        head_dim=80,
        mlp_dim=10240,
        gated=False,
        vocab_size=50304,
        layers_per_stage=(4,) * 8,
    )
    lengths = balanced_lengths(32768, 4, cost, block=128)
    for ours, theirs in zip(lengths, (11944, 8268, 6731, 5825), strict=True):
        # 1.4 % for the first chunk, by the other weight; a block of 128 is 2.2 % of the last one
        assert ours == pytest.approx(theirs, rel=0.02)


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        ({"model_dim": 0}, "model_dim=0"),
        ({"num_sequences": 0}, "num_sequences=0"),
        ({"num_kv_heads": 3}, "num_kv_heads=3 must divide num_heads=4"),
        ({"layers_per_stage": (2, 0)}, r"\(2, 0\)"),
        ({"layers_per_stage": ()}, r"\(\)"),
        ({"recompute": "some"}, "'some'"),
    ],
)
def test_impossible_sizes_are_refused(change, reported):
    with pytest.raises(ValueError, match=reported):
        replace(SMALL, **change)


@pytest.mark.parametrize("window", [1, 3, 8, 100])
def test_a_window_bounds_the_keys_of_every_query(window):
    cost = replace(SMALL, windows=(window,))
    for start, length in ((0, 1), (0, 8), (2, 3), (7, 5)):
        met = sum(min(i + 1, window) for i in range(start, start + length))
        assert cost.pairs(start + length) - cost.pairs(start) == met
    assert replace(SMALL, windows=(None,)).pairs(7) == 28


def test_visible_keys_are_counted_in_place_of_causal_ones():
    causal = np.arange(1.0, 65)
    assert replace(SMALL, visible_keys=causal)(16, 48) == SMALL(16, 48)
    # documents of 8 tokens: every chunk of 16 costs the same, so the balanced cut is the even one
    packed = replace(SMALL, visible_keys=np.tile(np.arange(1.0, 9), 8))
    assert packed(0, 16) == packed(48, 16) < SMALL(48, 16)
    assert balanced_lengths(64, 4, packed, block=8) == (16, 16, 16, 16)
    assert balanced_lengths(64, 4, SMALL, block=8) != (16, 16, 16, 16)
