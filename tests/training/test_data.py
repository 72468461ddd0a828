"""Corpora and batches: what is read, what is refused, and what a step sees."""

import hashlib

import numpy as np
import pytest

from seq1f1b_jax.training.data import Corpus, load_corpus, make_data
from seq1f1b_jax.training.data.sequences import split_windows


def counting_data(num_windows=40, seq_len=4, eval_fraction=0.2, seed=0):
    """A corpus whose token is its position, so a window tells where it came from."""
    tokens = np.arange(num_windows * (seq_len + 1) + 3, dtype=np.uint32)
    corpus = Corpus(tokens, tokens.size, "tokens", "0", 1)
    return make_data(corpus, seq_len=seq_len, eval_fraction=eval_fraction, seed=seed)


def windows_of(batch):
    """Which window each sequence of a batch of `counting_data` is."""
    return batch.tokens[..., 0].ravel() // (batch.tokens.shape[-1] + 1)


# ---- corpora


def test_stdlib_is_python_source_and_the_same_each_time():
    first, second = load_corpus("stdlib"), load_corpus("stdlib")
    assert first.sha256 == second.sha256 == hashlib.sha256(first.tokens).hexdigest()
    assert first.vocab_size == 256 and first.num_files > 400 and first.num_bytes > 5_000_000
    text = first.tokens.tobytes().decode()
    assert text.count("\0") == first.num_files
    assert "def heappush(heap, item):" in text  # heapq.py is in
    assert "class CAPITest" not in text  # test/ is out


def test_text_file_is_its_bytes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("naïve\n", encoding="utf-8")
    corpus = load_corpus(str(path))
    assert corpus.tokens.tobytes() == "naïve\n".encode()
    assert (corpus.kind, corpus.vocab_size, corpus.num_files) == ("text", 256, 1)


def test_folder_joins_by_relative_path_with_a_zero_byte_after_each_file(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    texts = {"c.md": "3", "b/x.txt": "2", "a.py": "1", ".git/HEAD": "no", "e": ""}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    corpus = load_corpus(str(tmp_path))
    assert corpus.tokens.tobytes() == b"1\x002\x003\x00"
    assert corpus.num_files == 3


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_bin_is_mapped_and_its_vocabulary_found(tmp_path, dtype):
    ids = np.array([1, 700, 3, 65535], np.dtype(dtype).newbyteorder("<"))
    path = tmp_path / "t.bin"
    ids.tofile(path)
    corpus = load_corpus(str(path), token_dtype=dtype)
    assert isinstance(corpus.tokens, np.memmap)
    assert corpus.tokens.tolist() == ids.tolist()
    assert corpus.vocab_size == 65536
    assert corpus.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_hash_and_utf8_check_cross_block_borders(tmp_path, monkeypatch):
    monkeypatch.setattr("seq1f1b_jax.training.data.corpus.BLOCK_BYTES", 5)
    path = tmp_path / "a.txt"
    good = "ab€cdé€".encode()
    path.write_bytes(good)
    assert load_corpus(str(path)).sha256 == hashlib.sha256(good).hexdigest()
    path.write_bytes(b"abcd\xe2\x82\xac12\xe2\x82x4")  # the second sequence breaks off, at 9
    with pytest.raises(ValueError, match=r"byte 0xe2 at offset 9"):
        load_corpus(str(path))
    path.write_bytes(b"abcdefgh\xe2\x82")  # the file ends inside a character
    with pytest.raises(ValueError, match=r"byte 0xe2 at offset 8"):
        load_corpus(str(path))


REFUSED = {
    "zero-byte": (b"some\0text", "a.txt", r"a\.txt has a zero byte at offset 4"),
    "not-utf8": (b"caf\xe9 noir", "a.txt", r"a\.txt is not UTF-8: byte 0xe9 at offset 3"),
    "empty-text": (b"", "a.txt", "holds 0 tokens"),
    "empty-bin": (b"", "a.bin", "holds 0 tokens"),
    "odd-bin": (b"12345", "a.bin", "has 5 bytes, which is not a multiple of the 2 bytes"),
}


@pytest.mark.parametrize(("content", "name", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_files(tmp_path, content, name, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_corpus(str(tmp_path / name))


def test_refused_sources(tmp_path):
    with pytest.raises(ValueError, match="cannot read .*nowhere.txt .No such file"):
        load_corpus(str(tmp_path / "nowhere.txt"))
    with pytest.raises(ValueError, match="cannot read .*nowhere.bin .No such file"):
        load_corpus(str(tmp_path / "nowhere.bin"))
    with pytest.raises(ValueError, match="folder with 0 files"):
        load_corpus(str(tmp_path))
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    with pytest.raises(ValueError, match=r"image\.png has a zero byte at offset 8"):
        load_corpus(str(tmp_path))
    with pytest.raises(ValueError, match="token_dtype=int8; it must be uint16 or uint32"):
        load_corpus("x.bin", token_dtype="int8")


def test_id_outside_the_vocabulary_is_named_with_its_position(tmp_path, monkeypatch):
    monkeypatch.setattr("seq1f1b_jax.training.data.corpus.BLOCK_BYTES", 4)
    path = tmp_path / "t.bin"
    np.array([1, 2, 3, 900, 4, 901], "<u2").tofile(path)
    with pytest.raises(ValueError, match="token id 900 at position 3 is not below vocab_size=900"):
        load_corpus(str(path), vocab_size=900)
    assert load_corpus(str(path), vocab_size=902).vocab_size == 902
    np.array([5, 2**31], "<u4").tofile(path)
    with pytest.raises(ValueError, match="token id 2147483648 at position 1"):
        load_corpus(str(path), token_dtype="uint32")


# ---- sequences


def test_batch_has_the_shape_the_types_and_targets_one_ahead():
    batch = counting_data().batch(3, num_microbatches=2, microbatch_size=3)
    assert batch.tokens.shape == batch.targets.shape == (2, 3, 4)
    assert batch.tokens.dtype == batch.targets.dtype == np.int32
    np.testing.assert_array_equal(batch.targets, batch.tokens + 1)
    assert (batch.tokens[..., 0] % 5 == 0).all()  # windows start at multiples of seq_len + 1


def test_an_epoch_shows_every_training_window_once_and_the_next_in_another_order():
    data = counting_data()
    n = data.train_windows.size
    order = np.concatenate(
        [windows_of(data.batch(k, num_microbatches=1, microbatch_size=4)) for k in range(n // 2)]
    )
    first, second = order[:n], order[n:]
    assert sorted(first) == sorted(second) == data.train_windows.tolist()
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
    train, held_out = split_windows(num_windows, num_held_out)
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
    assert [x.tolist() for x in split_windows(10, 2)] == [[0, 1, 2, 3, 5, 6, 7, 8], [4, 9]]
    held_out = split_windows(640, 128)[1]  # 64 blocks of ten, two held out of each
    assert held_out[:3].tolist() == [8, 18, 28] and held_out[64:67].tolist() == [9, 19, 29]


def test_held_out_batches_are_fixed_in_order_and_never_trained_on():
    data = counting_data()  # 8 windows held out
    batches = data.held_out(9, num_microbatches=3, microbatch_size=1)
    assert len(batches) == 2  # as many full batches as there are
    seen = np.concatenate([windows_of(batch) for batch in batches])
    assert seen.tolist() == data.held_out_windows[:6].tolist()
    assert not set(seen) & set(data.train_windows)
    with pytest.raises(ValueError, match="8 sequences of 4 tokens are held out, .* takes 9"):
        data.held_out(1, num_microbatches=9, microbatch_size=1)


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
