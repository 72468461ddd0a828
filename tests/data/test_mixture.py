"""Mixtures: which source gives which sequence, without gaps, repeats or other readers' rows."""

from math import log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq1f1b_jax.data import Corpus, load_corpus, make_data, make_mixture, train_bpe
from seq1f1b_jax.data.draw import Draw, Pick, Stretch

SEQ_LEN = 8
SHAPE = {"num_microbatches": 3, "microbatch_size": 2}


def source(first_token, num_sequences):
    """Windows that say where they are from: each begins with a token of its own."""
    tokens = np.arange(num_sequences * (SEQ_LEN + 1)) // (SEQ_LEN + 1) + first_token
    corpus = Corpus(tokens.astype(np.uint16), 1000, "tokens", str(first_token), 1)
    return make_data(corpus, seq_len=SEQ_LEN, eval_fraction=0.1, seed=3)


def mixture(**weights):
    data = {"a": source(0, 40), "b": source(100, 20), "c": source(200, 30)}
    return make_mixture({name: data[name] for name in weights}, weights)


def firsts(mixed, num_steps, start=0):
    """First tokens of the sequences of some steps, in the order of the run."""
    batches = [mixed.batch(step, **SHAPE) for step in range(start, start + num_steps)]
    return np.concatenate([batch.tokens[..., 0].ravel() for batch in batches]).tolist()


weights_of_sources = st.lists(
    st.one_of(st.just(0.0), st.floats(1e-3, 1e3)), min_size=1, max_size=8
).filter(any)


@settings(deadline=None, max_examples=40)
@given(weights_of_sources, weights_of_sources, st.integers(0, 2**32 - 1), st.integers(0, 150))
def test_every_place_has_one_source_near_its_share_whatever_changes(before, after, seed, start):
    keys = "abcdefgh"[: min(len(before), len(after))]
    old, new = (dict(zip(keys, weights, strict=False)) for weights in (before, after))
    if not (any(old.values()) and any(new.values())):
        return
    draw = Draw(seed, (Stretch(0, old),)).changed(start, new)
    counts = dict.fromkeys(keys, 0)
    for place in range(start + 100):
        assert draw.counts(place) == counts
        key, index = draw.pick(place)
        assert index == counts[key]  # each goes on where it was
        assert (old if place < start else new)[key] > 0
        counts[key] += 1
    for num, weights, found in (
        (start, old, draw.counts(start)),
        (100, new, {key: counts[key] - draw.counts(start)[key] for key in keys}),
    ):
        for key in keys:
            wanted = num * weights[key] / sum(weights.values())
            assert abs(found[key] - wanted) <= 1 + log(len(keys)) + 1e-9


def test_a_draw_is_within_the_binomial_bound_and_depends_on_the_seed():
    weights, num = {"a": 0.62, "b": 0.3, "c": 0.08}, 4000
    draws = [Draw(seed, (Stretch(0, weights),)) for seed in (0, 1)]
    for draw in draws:
        for key, share in weights.items():
            sigma = sqrt(num * share * (1 - share))  # of independent draws
            assert abs(draw.counts(num)[key] - num * share) < min(3 * sigma, 1 + log(3))
    assert [draws[0].pick(i).key for i in range(50)] != [draws[1].pick(i).key for i in range(50)]
    assert draws[0].changed(7, {"b": 30, "a": 62, "c": 8}) is draws[0]  # the same ratio


def test_where_patterns_begin_is_the_same_for_ever():
    """A resumed run relies on it, under any version of Python and NumPy."""
    draw = Draw(5, (Stretch(0, {"a": 0.7, "b": 0.3}),))
    assert "".join(draw.pick(place).key for place in range(20)) == "abaabaabaaabaabaabaa"
    assert draw.pick(10**12) == Pick("a", 7 * 10**11)


def test_no_sequence_comes_again_before_its_epoch_ends_through_a_change_of_weights():
    mixed = mixture(a=0.5, b=0.3, c=0.2)
    begun = firsts(mixed, 4)
    changed = mixture(c=2, b=1, a=1).resumed(mixed.record, 24)
    assert firsts(changed, 4) == begun  # steps before keep what they had drawn
    seen = begun + firsts(changed, 10, start=4)
    for low, data in ((0, source(0, 40)), (100, source(100, 20)), (200, source(200, 30))):
        own = [token for token in seen if low <= token < low + 100]
        alone = data.drawn(np.arange(len(own))).tokens[:, 0].tolist()
        assert own == alone
        size = data.split.train.size
        assert len(set(own[:size])) == min(len(own), size)
    assert len([t for t in seen if 100 <= t < 200]) > source(100, 20).split.train.size  # round


def test_one_source_is_what_it_is_alone_and_readers_read_their_own_rows():
    alone, mixed = source(100, 20), mixture(b=7.0)
    for step in range(5):
        for one, other in zip(alone.batch(step, **SHAPE), mixed.batch(step, **SHAPE), strict=True):
            np.testing.assert_array_equal(one, other)
    mixed = mixture(a=0.5, b=0.5)
    halves = [mixed.batch(3, **SHAPE, rows=slice(row, row + 1)).tokens for row in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), mixed.batch(3, **SHAPE).tokens)


def test_documents_are_packed_by_source(tmp_path):
    data = {}
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        for number in range(30):
            (folder / f"{number}.txt").write_text(name * (3 + number % 5))
        data[str(folder)] = make_data(
            load_corpus(str(folder)), seq_len=16, eval_fraction=0.1, seed=0, packing="documents"
        )
    mixed = make_mixture(data, dict.fromkeys(data, 1.0))
    batch = mixed.batch(0, **SHAPE)
    assert [source.name for source in mixed.sources] == ["a", "b"]
    for tokens in batch.tokens.reshape(-1, 16):
        assert set(tokens.tolist()) in ({0, ord("a")}, {0, ord("b")})
    assert (batch.starts > 0).any() and (batch.targets < 0).any()
    rates = [one.fill_rate for one in data.values()]
    assert mixed.fill_rate == pytest.approx(np.mean(rates))
    assert set(mixed.identity["sources"]) == {"a", "b"}


def test_sources_of_different_tokens_or_the_same_twice_are_refused(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("some text " * 40)
    (tmp_path / "copy.txt").write_text("some text " * 40)
    np.arange(300, dtype="<u2").tofile(tmp_path / "ids.bin")

    (tmp_path / "bpe").mkdir()
    train_bpe([text], 260).save(tmp_path / "bpe")
    sizes = {"seq_len": 8, "eval_fraction": 0.1, "seed": 0}
    bpe = Corpus(np.arange(300), 1000, "prepared", "1", 1, None, str(tmp_path / "bpe"), 260)

    def load(name):
        corpus = bpe if name == "bpe" else load_corpus(str(tmp_path / name), vocab_size=1000)
        return make_data(corpus, **sizes)

    for other, told in (
        ("copy.txt", r"copy.txt holds the tokens of .*text.txt; name it once"),
        ("ids.bin", r"text.txt has the tokens of bytes, and .*ids.bin those of an unknown token"),
        ("bpe", r"text.txt has the tokens of bytes, and .*bpe those of a tokenizer.json with sha2"),
    ):
        data = {str(tmp_path / name): load(name) for name in ("text.txt", other)}
        with pytest.raises(ValueError, match=told):
            make_mixture(data, dict.fromkeys(data, 1.0))
