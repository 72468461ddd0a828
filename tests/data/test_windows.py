"""Windows: what a step sees, what is held out, what a run is known by."""

import numpy as np
import pytest

from seq1f1b_jax.data import Corpus, make_data, mean_visible_keys
from seq1f1b_jax.data.sequences import split_sequences


def counting_data(num_windows=40, seq_len=4, eval_fraction=0.2, seed=0):
    """A corpus whose token is its position, so a window tells where it came from."""
    tokens = np.arange(num_windows * (seq_len + 1) + 3, dtype=np.uint32)
    corpus = Corpus(tokens, tokens.size, "tokens", "0", 1)
    return make_data(corpus, seq_len=seq_len, eval_fraction=eval_fraction, seed=seed)


def windows_of(batch):
    """Which window each sequence of a batch of `counting_data` is."""
    return batch.tokens[..., 0].ravel() // (batch.tokens.shape[-1] + 1)


def test_batch_has_the_shape_the_types_and_targets_one_ahead():
    batch = counting_data().batch(3, num_microbatches=2, microbatch_size=3)
    assert batch.tokens.shape == batch.targets.shape == (2, 3, 4)
    assert batch.tokens.dtype == batch.targets.dtype == np.int32
    np.testing.assert_array_equal(batch.targets, batch.tokens + 1)
    assert (batch.tokens[..., 0] % 5 == 0).all()  # windows start at multiples of seq_len + 1


def test_an_epoch_shows_every_training_window_once_and_the_next_in_another_order():
    data = counting_data()
    n = data.split.train.size
    order = np.concatenate(
        [windows_of(data.batch(k, num_microbatches=1, microbatch_size=4)) for k in range(n // 2)]
    )
    first, second = order[:n], order[n:]
    assert sorted(first) == sorted(second) == data.split.train.tolist()
    assert first.tolist() != second.tolist() and first.tolist() != sorted(first)


def test_a_step_depends_on_seed_and_index_only_not_on_the_factoring():
    by_step = [counting_data().batch(k, num_microbatches=6, microbatch_size=1) for k in range(30)]
    late = counting_data().batch(29, num_microbatches=2, microbatch_size=3)  # without the 29 before
    np.testing.assert_array_equal(by_step[29].tokens.reshape(6, 4), late.tokens.reshape(6, 4))
    other = counting_data(seed=1).batch(0, num_microbatches=6, microbatch_size=1)
    assert not np.array_equal(by_step[0].tokens, other.tokens)


@pytest.mark.parametrize(
    ("num_windows", "num_held_out"), [(2, 1), (10, 5), (130, 65), (1000, 50), (999, 499), (64, 3)]
)
def test_split_is_a_partition_of_block_tails(num_windows, num_held_out):
    train, held_out = split_sequences(num_windows, num_held_out)
    assert held_out.size == num_held_out
    assert sorted([*train, *held_out]) == list(range(num_windows))
    blocks = min(64, num_held_out)
    # the first round takes one window from every block, ascending
    assert (np.diff(held_out[:blocks]) > 0).all()
    # no block's training windows come after its held-out ones
    for block in range(blocks):
        start, stop = (block * num_windows // blocks, (block + 1) * num_windows // blocks)
        inside = held_out[(held_out >= start) & (held_out < stop)]
        assert sorted(inside) == list(range(stop - inside.size, stop))


def test_held_out_order_goes_round_the_blocks():
    assert [x.tolist() for x in split_sequences(10, 2)] == [[0, 1, 2, 3, 5, 6, 7, 8], [4, 9]]
    held_out = split_sequences(640, 128)[1]  # 64 blocks of ten, two held out of each
    assert held_out[:3].tolist() == [8, 18, 28] and held_out[64:67].tolist() == [9, 19, 29]


def test_held_out_batches_are_fixed_in_order_and_never_trained_on():
    data = counting_data()  # 8 windows held out
    batches = data.held_out(99, num_microbatches=3, microbatch_size=1)
    assert len(batches) == 3 and len(batches[-1].tokens) == 3
    seen = np.concatenate([windows_of(batch) for batch in batches])[:8]
    assert seen.tolist() == data.split.held_out.tolist()
    assert not set(seen) & set(data.split.train)


@pytest.mark.parametrize("num_sequences, counted", [(1, 1), (5, 5), (8, 8), (9, 8), (None, 8)])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 2), (4, 2), (3, 5)], ids=str)
def test_the_held_out_sequences_do_not_depend_on_the_shape_of_a_batch(
    num_sequences, counted, shape
):
    data = counting_data()
    batches = data.held_out(num_sequences, num_microbatches=shape[0], microbatch_size=shape[1])
    expected = data.sequences(data.split.held_out[:counted])
    for name in ("tokens", "targets"):
        parts = [getattr(batch, name) for batch in batches]
        assert {part.shape for part in parts} == {(*shape, 4)}
        rows = np.concatenate(parts).reshape(-1, 4)
        np.testing.assert_array_equal(rows[:counted], getattr(expected, name))
        assert counted <= len(rows) < counted + shape[0] * shape[1]
        assert (rows[counted:] == {"tokens": 0, "targets": -1}[name]).all()


def test_identity_tells_what_batches_depend_on():
    first, second = counting_data().identity, counting_data(seed=7).identity
    assert {name for name in first if first[name] != second[name]} == {"seed"}
    assert first["num_tokens"] == 203 and first["seq_len"] == 4


MISFITS = {
    "longer-than-data": (dict(seq_len=10), "seq_len=10 needs 11 tokens and the data has 10"),
    "nothing-held-out": (dict(seq_len=1, eval_fraction=0.1), "0.1 of 5 sequences of 1 tokens"),
    "no-fraction": (dict(seq_len=1, eval_fraction=0.0), "eval_fraction=0.0 is not in"),
    "too-much": (dict(seq_len=1, eval_fraction=0.9), "eval_fraction=0.9 is not in"),
    "seed": (dict(seq_len=1, seed=-1), "seed=-1 is not in"),
    "no-length": (dict(seq_len=0), "seq_len=0; a sequence has"),
}


@pytest.mark.parametrize(("given", "message"), MISFITS.values(), ids=MISFITS.keys())
def test_misfits(given, message):
    corpus = Corpus(np.arange(10, dtype=np.uint8), 256, "text", "0", 1)
    with pytest.raises(ValueError, match=message):
        make_data(corpus, **{"eval_fraction": 0.5, "seed": 0, **given})


def test_queries_of_a_window_see_all_before_them_or_a_sliding_window():
    data = counting_data()
    assert data.mean_visible_keys().tolist() == [1, 2, 3, 4] and data.fill_rate == 1
    assert data.mean_visible_keys(window=2).tolist() == [1, 2, 2, 2]
    starts = np.array([[[0, 0, 2, 2]], [[0, 1, 1, 1]]])
    assert mean_visible_keys(starts).tolist() == [1, 1.5, 1.5, 2.5]
    assert mean_visible_keys(starts, window=1).tolist() == [1, 1, 1, 1]
