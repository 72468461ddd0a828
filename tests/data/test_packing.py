"""Packed documents: nothing lost, nothing twice, nothing across a border, the same every time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq1f1b_jax.data import Corpus, make_data, mean_visible_keys
from seq1f1b_jax.data.packing import pack
from tests.data.documents import corpus_of, packed, slow_best_fit, slow_first_fit

lengths_and_size = st.integers(1, 24).flatmap(
    lambda size: st.tuples(st.lists(st.integers(1, size), min_size=1, max_size=60), st.just(size))
)
documents_and_size = st.tuples(
    st.lists(st.integers(1, 40), min_size=2, max_size=40), st.integers(1, 24)
)


# ---- which pieces share a sequence


@settings(deadline=None)
@given(lengths_and_size)
def test_packs_as_the_obvious_best_fit_does(case):
    lengths, size = np.array(case[0]), case[1]
    order, bounds = pack(lengths, size)
    assert sorted(order) == list(range(lengths.size))
    rooms = [size - lengths[order[a:b]].sum() for a, b in zip(bounds, bounds[1:], strict=False)]
    assert sorted(rooms) == slow_best_fit(case[0], size)
    # pieces ascend in a sequence, and sequences by their first pieces
    assert all((np.diff(order[a:b]) > 0).all() for a, b in zip(bounds, bounds[1:], strict=False))
    assert (np.diff(order[bounds[:-1]]) > 0).all()


def test_best_fit_fills_better_than_first_fit():
    lengths = np.random.default_rng(0).geometric(1 / 40, 400).clip(max=100)
    assert pack(lengths, 100)[1].size - 1 < slow_first_fit(lengths.tolist(), 100)


def test_groups_are_packed_by_themselves():
    order, bounds = pack(np.array([1, 1, 3, 3]), 4, group_pieces=2)
    assert order.tolist() == [0, 1, 2, 3] and bounds.tolist() == [0, 2, 3, 4]
    assert pack(np.array([1, 1, 3, 3]), 4)[1].tolist() == [0, 2, 4]


# ---- what a sequence holds


def all_sequences(data):
    return data.sequences(np.arange(data.pieces.num_sequences))


@settings(deadline=None)
@given(documents_and_size)
def test_every_token_once_and_no_target_across_a_border(case):
    lengths, size = case
    data = packed([*lengths, size, size], size)
    documents = data.corpus.documents
    tokens, targets, starts = all_sequences(data)
    for row in range(len(tokens)):
        check_sequence(documents, tokens[row], targets[row], starts[row], fill(data, row))
    seen = np.sort(np.concatenate([t[: fill(data, row)] for row, t in enumerate(tokens)]))
    np.testing.assert_array_equal(seen, data.corpus.tokens)


def fill(data, row):
    bounds = data.pieces.bounds
    return int(data.pieces.lengths[bounds[row] : bounds[row + 1]].sum())


def check_sequence(documents, tokens, targets, starts, used):
    """Token t is at position t of the corpus: neighbours of one document differ by one."""
    for i in range(used):
        start, last = starts[i], tokens[i] + 1 in documents
        assert tokens[i] - tokens[start] == i - start
        assert np.searchsorted(documents, tokens[i], "right") == np.searchsorted(
            documents, tokens[start], "right"
        )
        assert targets[i] == (-1 if last else tokens[i] + 1)
    assert (tokens[used:] == 0).all() and (targets[used:] == -1).all()
    assert (starts[used:] == used).all()


def test_a_sequence_by_hand():
    data = packed([3, 2, 6, 5, 4], 6, eval_fraction=0.4)
    batch = all_sequences(data)
    assert batch.tokens.tolist() == [
        [0, 1, 2, 0, 0, 0], [3, 4, 16, 17, 18, 19], [5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 0]
    ]
    assert batch.starts.tolist() == [
        [0, 0, 0, 3, 3, 3], [0, 0, 2, 2, 2, 2], [0] * 6, [0, 0, 0, 0, 0, 5]
    ]
    assert batch.targets.tolist() == [
        [1, 2, -1, -1, -1, -1], [4, -1, 17, 18, 19, -1], [6, 7, 8, 9, 10, -1],
        [12, 13, 14, 15, -1, -1],
    ]
    assert data.fill_rate == 20 / 24
    assert [part.dtype for part in batch] == [np.int32] * 3


def test_long_documents_are_split_and_their_parts_keep_the_target_at_the_cut():
    data = packed([10, 3], 4)
    batch = all_sequences(data)
    assert (data.pieces.num_split, data.pieces.num_dropped) == (1, 0)
    assert batch.tokens.tolist()[:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert batch.targets.tolist()[:2] == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert batch.tokens[2:].tolist() == [[8, 9, 0, 0], [10, 11, 12, 0]]


def test_long_documents_are_dropped_and_counted():
    data = packed([10, 3, 4, 5], 4, long_documents="drop")
    assert (data.pieces.num_split, data.pieces.num_dropped) == (0, 2)
    assert data.pieces.num_tokens == 7 and data.pieces.num_sequences == 2


# ---- order, resume, cost


def test_a_step_depends_on_seed_and_index_only_not_on_the_factoring():
    lengths = np.random.default_rng(1).integers(1, 30, 200)
    first = [packed(lengths, 16).batch(k, num_microbatches=4, microbatch_size=1) for k in range(40)]
    late = packed(lengths, 16).batch(39, num_microbatches=2, microbatch_size=2)
    for before, after in zip(first[39], late, strict=True):
        np.testing.assert_array_equal(before.reshape(4, 16), after.reshape(4, 16))
    other = packed(lengths, 16, seed=1).batch(0, num_microbatches=4, microbatch_size=1)
    assert not np.array_equal(first[0].tokens, other.tokens)


def test_held_out_sequences_are_never_trained_on():
    data = packed(np.random.default_rng(2).integers(1, 30, 200), 16, eval_fraction=0.1)
    held_out = data.held_out(None, num_microbatches=7, microbatch_size=1)
    targets = np.concatenate([batch.targets for batch in held_out])
    assert (targets >= 0).sum() == (data.sequences(data.split.held_out).targets >= 0).sum()
    seen = {int(t) for batch in held_out for t in batch.tokens[batch.targets >= 0]}
    epoch = range(data.split.train.size)
    trained = [data.batch(k, num_microbatches=1, microbatch_size=1) for k in epoch]
    assert seen and not seen & {int(t) for b in trained for t in b.tokens[b.targets >= 0]}


def test_train_blocks_are_the_training_sequences(monkeypatch):
    monkeypatch.setattr("seq1f1b_jax.data.sequences.BLOCK_TOKENS", 40)
    data = packed(np.random.default_rng(2).integers(1, 30, 200), 16)
    blocks = list(data.train_blocks(16 * 7))
    assert [len(block.tokens) for block in blocks] == [2, 2, 2, 1]
    expected = data.sequences(data.split.train[:7])
    for at, part in enumerate(expected):
        np.testing.assert_array_equal(np.concatenate([block[at] for block in blocks]), part)


@settings(deadline=None)
@given(documents_and_size, st.sampled_from([None, 1, 3, 7]))
def test_mean_visible_keys_without_looking_at_the_sequences(case, window):
    lengths, size = case
    data = packed([*lengths, size, size], size)
    expected = mean_visible_keys(all_sequences(data).starts, window=window)
    np.testing.assert_allclose(data.mean_visible_keys(window=window), expected, rtol=1e-13)


def test_identity_tells_where_documents_lie():
    lengths = [5, 4, 3, 2, 1, 6]
    one, other = packed(lengths, 8).identity, packed(lengths[::-1], 8).identity
    assert {name for name in one if one[name] != other[name]} == {"documents_sha256"}
    dropped = packed(lengths, 8, long_documents="drop").identity
    assert {name for name in one if one[name] != dropped[name]} == {"long_documents"}


# ---- bad input

MISFITS = {
    "packing": (dict(packing="sorted"), "packing=sorted; it must be windows or documents"),
    "long": (dict(long_documents="cut"), "long_documents=cut; it must be split or drop"),
    "dropped": (dict(seq_len=2, long_documents="drop"), "0 of 2 documents: all are longer than"),
    "held-out": (dict(eval_fraction=0.2), "0.2 of 2 sequences of 4 tokens"),
}


@pytest.mark.parametrize(("given", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_misfits(given, message):
    given = {"seq_len": 4, "eval_fraction": 0.5, "seed": 0, "packing": "documents", **given}
    with pytest.raises(ValueError, match=message):
        make_data(corpus_of([4, 3]), **given)


def test_a_bin_has_no_documents_to_pack():
    corpus = Corpus(np.arange(90, dtype=np.uint16), 90, "tokens", "0", 1)
    with pytest.raises(ValueError, match="prepare, or set data.packing=windows"):
        make_data(corpus, seq_len=4, eval_fraction=0.5, seed=0, packing="documents")
