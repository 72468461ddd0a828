"""The bigram bar against a slow count, by hand, and against entropies that are known."""

from dataclasses import replace

import numpy as np
import pytest

from seq1f1b_jax.data import Batch, Corpus, load_corpus, make_data
from seq1f1b_jax.training.evaluation import bigram_loss
from tests.data.documents import corpus_of


def data_of(tokens, vocab_size, seq_len=16):
    corpus = Corpus(np.asarray(tokens, np.uint32), vocab_size, "tokens", "0", 1)
    return make_data(corpus, seq_len=seq_len, eval_fraction=0.2, seed=0)


def slow_bigram_loss(data, batches, strength):
    """The formula of the module, pair by pair."""
    v = data.corpus.vocab_size
    pairs, follows = np.zeros((v, v)), np.zeros(v)
    trained = data.sequences(data.split.train)
    for a, b in zip(trained.tokens.ravel(), trained.targets.ravel(), strict=True):
        if b >= 0:
            pairs[a, b] += 1
            follows[b] += 1
    prior = (follows + 1) / (follows.sum() + v)
    losses = [
        -np.log((pairs[a, b] + strength * prior[b]) / (pairs[a].sum() + strength))
        for batch in batches
        for a, b in zip(batch.tokens.ravel(), batch.targets.ravel(), strict=True)
        if b >= 0
    ]
    return np.mean(losses)


@pytest.mark.parametrize("dense_pairs", [1 << 22, 0], ids=["dense", "sparse"])
def test_agrees_with_the_slow_count(monkeypatch, dense_pairs):
    monkeypatch.setattr("seq1f1b_jax.training.evaluation.bigram.DENSE_PAIRS", dense_pairs)
    monkeypatch.setattr("seq1f1b_jax.data.sequences.BLOCK_TOKENS", 100)  # several blocks
    rng = np.random.default_rng(0)
    data = data_of(rng.zipf(1.5, 2000).clip(max=29), 30)
    batches = data.held_out(11, num_microbatches=2, microbatch_size=2)  # one is filled up
    expected = slow_bigram_loss(data, batches, 3.0)
    assert bigram_loss(data, batches, prior_strength=3.0) == pytest.approx(expected, rel=1e-12)


def test_pairs_never_cross_a_document():
    # within a document 0 follows 0 or 1 follows 1; across borders it is always the other
    corpus = corpus_of([4] * 100)
    tokens = (np.arange(400) // 4 % 2).astype(np.uint32)
    corpus = replace(corpus, tokens=tokens, vocab_size=2)
    data = make_data(corpus, seq_len=16, eval_fraction=0.2, seed=0, packing="documents")
    held_out = data.held_out(5, num_microbatches=1, microbatch_size=1)
    assert bigram_loss(data, held_out, prior_strength=1e-6) < 1e-6
    expected = slow_bigram_loss(data, held_out, 3.0)
    assert bigram_loss(data, held_out, prior_strength=3.0) == pytest.approx(expected, rel=1e-12)


def test_documents_of_one_token_have_no_target_to_score():
    corpus = replace(corpus_of([1] * 100), vocab_size=5000)
    data = make_data(corpus, seq_len=4, eval_fraction=0.2, seed=0, packing="documents")
    assert bigram_loss(data, data.held_out(1, num_microbatches=1, microbatch_size=1)) == 0


def test_a_cycle_costs_nothing_and_coin_flips_cost_log_2():
    cycle = data_of(np.arange(20_000) % 7, 7)
    held_out = cycle.held_out(16, num_microbatches=4, microbatch_size=1)
    assert bigram_loss(cycle, held_out, prior_strength=1e-6) < 1e-6
    coins = data_of(np.random.default_rng(1).integers(0, 2, 40_000), 2)
    held_out = coins.held_out(400, num_microbatches=4, microbatch_size=1)
    assert bigram_loss(coins, held_out) == pytest.approx(np.log(2), abs=2e-3)


def test_probabilities_sum_to_one_also_for_a_first_token_never_seen():
    data = data_of(np.arange(1000) % 5, 8)  # tokens 5, 6, 7 never occur
    for first in (2, 6):
        tokens, zeros = np.full((1, 1, 1), first, np.int32), np.zeros((1, 1, 1), np.int32)
        losses = [bigram_loss(data, [Batch(tokens, zeros + b)]) for b in range(8)]
        assert np.exp(-np.array(losses)).sum() == pytest.approx(1, abs=1e-12)


def test_python_source_is_near_2_44_nats_per_byte():
    data = make_data(load_corpus("stdlib"), seq_len=1024, eval_fraction=0.05, seed=0)
    held_out = data.held_out(560, num_microbatches=8, microbatch_size=1)
    # 2.439 on Python 3.11; the source differs between versions, the statistics of Python hardly
    assert bigram_loss(data, held_out) == pytest.approx(2.44, abs=0.05)


def test_fits_on_the_first_tokens_only_when_told():
    data = data_of(np.r_[np.arange(1000) % 2, np.arange(1000) % 3], 3)
    held_out = data.held_out(16, num_microbatches=4, microbatch_size=1)
    assert bigram_loss(data, held_out, max_tokens=500) > bigram_loss(data, held_out) + 0.1
