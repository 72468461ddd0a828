"""What a step trains on and the FLOPs of that, against a count token by token."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from seq1f1b_jax.schedule import StageCost
from seq1f1b_jax.training.reports.work import count_work
from tests.data.documents import packed


def by_hand(targets, starts, window):
    """Tokens with a target, and the keys that each of them sees."""
    tokens = pairs = 0
    for target, start in zip(targets.reshape(-1, 16), starts.reshape(-1, 16), strict=True):
        for query in range(16):
            if target[query] >= 0:
                tokens += 1
                seen = range(start[query], query + 1)
                pairs += len([key for key in seen if window is None or query - key < window])
    return tokens, pairs


@pytest.mark.parametrize("window", [None, 1, 5])
def test_padding_and_the_ends_of_documents_are_no_work(window):
    data = packed(np.random.default_rng(3).integers(1, 30, 60), 16, long_documents="drop")
    batch = data.batch(2, num_microbatches=3, microbatch_size=2)
    work = count_work(batch.targets, batch.starts, windows=(window,))
    assert (int(work.num_tokens), float(work.num_pairs)) == by_hand(*batch[1:], window)
    assert work.num_tokens < batch.tokens.size


def test_a_full_sequence_is_a_triangle_of_pairs():
    targets = np.ones((2, 3, 500), np.int32)
    work = count_work(targets, None)
    assert (int(work.num_tokens), float(work.num_pairs)) == (3000, 6 * 500 * 501 / 2)
    work = count_work(targets, None, windows=(7,))
    assert float(work.num_pairs) == 6 * (7 * 8 / 2 + 493 * 7)


def test_long_rows_of_many_sequences_do_not_round_away():
    targets = np.zeros((4, 8, 1 << 16), np.int32)
    pairs = float(jax.jit(lambda t: count_work(t, None).num_pairs)(targets))
    assert pairs == pytest.approx(32 * 65536 * 65537 / 2, rel=1e-5)


def test_flops_of_a_step_by_hand():
    cost = StageCost(
        vocab_size=7, model_dim=5, num_heads=3, num_kv_heads=1, head_dim=2, mlp_dim=6, gated=True,
        layers_per_stage=(3, 1), num_layer_params=100,
    )
    flops = cost.model_flops(num_tokens=10, num_pairs=55)
    head, layers = 7 * 5 * 10, 100 * 10
    attention = 2 * 55 * 3 * 2 * 4  # scores and their weighted sum of values
    assert flops == 3 * 2 * (head + layers + attention)
    weights = replace(cost, num_layer_params=None).model_flops(num_tokens=1, num_pairs=0)
    assert weights == 6 * (7 * 5 + 4 * 5 * (2 * (3 + 1) * 2 + 3 * 6))
