"""Corpora: what is read, what is refused, and how its documents are told apart."""

import hashlib

import numpy as np
import pytest

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data import load_corpus


def test_stdlib_is_python_source():
    corpus = load_corpus("stdlib")
    assert corpus.sha256 == hashlib.sha256(corpus.tokens).hexdigest()
    assert corpus.vocab_size == 256 and corpus.num_files > 400 and corpus.num_bytes > 5_000_000
    text = corpus.tokens.tobytes().decode()
    assert text.count("\0") == corpus.num_files
    assert "def heappush(heap, item):" in text  # heapq.py is in
    assert "class CAPITest" not in text  # test/ is out


def test_text_file_is_its_bytes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("naïve\n", encoding="utf-8")
    corpus = load_corpus(str(path))
    assert corpus.tokens.tobytes() == "naïve\n".encode()
    assert (corpus.kind, corpus.vocab_size, corpus.num_files) == ("text", 256, 1)
    assert corpus.documents.tolist() == [0, 7]
    assert corpus.load_tokenizer().decode(corpus.tokens.tolist()) == "naïve\n"


def test_folder_joins_by_relative_path_with_a_zero_byte_after_each_file(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    texts = {"c.md": "3", "b/x.txt": "2", "a.py": "1", ".git/HEAD": "no", "e": ""}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    corpus = load_corpus(str(tmp_path))
    assert corpus.tokens.tobytes() == b"1\x002\x003\x00"
    assert corpus.num_files == 3 and corpus.documents.tolist() == [0, 2, 4, 6]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_bin_is_mapped_and_knows_only_its_largest_id(tmp_path, dtype):
    ids = np.array([1, 700, 3, 65535], np.dtype(dtype).newbyteorder("<"))
    path = tmp_path / "t.bin"
    ids.tofile(path)
    corpus = load_corpus(str(path), token_dtype=dtype)
    assert isinstance(corpus.tokens, np.memmap)
    assert corpus.tokens.tolist() == ids.tolist()
    assert corpus.vocab_size == 65536
    assert corpus.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert corpus.documents is None and corpus.load_tokenizer() is None


def test_hash_and_utf8_check_cross_block_borders(tmp_path, monkeypatch):
    monkeypatch.setattr("seq1f1b_jax.data.text.BLOCK_BYTES", 5)
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


@pytest.mark.parametrize(
    ("name", "what"),
    {"a.jsonl": "jsonl", "a.JSON": "json", "a.csv": "csv", "a.parquet": "parquet",
     "a.txt.gz": "text in gz", "a.jsonl.zst": "jsonl in zst"}.items(),
)
def test_files_that_are_not_their_text_are_for_prepare(tmp_path, name, what):
    (tmp_path / name).write_text('{"text": "a"}\n')
    message = f"{name} is {what} by its name, .* prepare .*{name} --to FOLDER, and set data.source"
    with pytest.raises(ValueError, match=message):
        load_corpus(str(tmp_path / name))


def test_id_outside_the_vocabulary_is_named_with_its_position(tmp_path, monkeypatch):
    monkeypatch.setattr("seq1f1b_jax.data.corpus.BLOCK_BYTES", 4)
    path = tmp_path / "t.bin"
    np.array([1, 2, 3, 900, 4, 901], "<u2").tofile(path)
    with pytest.raises(ValueError, match="token id 900 at position 3 is not below vocab_size=900"):
        load_corpus(str(path), vocab_size=900)
    assert load_corpus(str(path), vocab_size=902).vocab_size == 902
    np.array([5, 2**31], "<u4").tofile(path)
    with pytest.raises(ValueError, match="token id 2147483648 at position 1"):
        load_corpus(str(path), token_dtype="uint32")


def test_a_folder_of_records_only_is_not_trained_on_as_bytes(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    (tmp_path / "b.csv.gz").write_bytes(b"")
    with pytest.raises(UserError, match="only records or compressed files.*data prepare"):
        load_corpus(str(tmp_path))
    (tmp_path / "c.md").write_text("text")
    assert load_corpus(str(tmp_path)).kind == "text"


def test_a_prepare_that_was_stopped_is_told_apart(tmp_path):
    folder = tmp_path / "tokens.partial"
    folder.mkdir()
    (folder / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="same command again and set data.source=.*tokens$"):
        load_corpus(str(folder))
