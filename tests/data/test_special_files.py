"""Pipes, sockets and devices are read by nobody, and a file that is cut is noticed."""

import os
import socket

import numpy as np
import pytest

from seq1f1b_jax.data import load_corpus, load_tokenizer, make_data
from seq1f1b_jax.data.prepare.run import PrepareJob, prepare


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def make_link_to_a_device(path):
    path.symlink_to("/dev/zero")


MAKE = [make_pipe, make_socket, make_link_to_a_device]


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("name", ["text", "a.bin", "a.txt"])
def test_as_the_source_they_are_refused(make, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    make(tmp_path / name) if make is not make_socket else make(name)
    with pytest.raises(ValueError, match=f"{name} is a pipe, socket or device"):
        load_corpus(str(tmp_path / name), vocab_size=256)


@pytest.mark.parametrize("make", MAKE)
def test_in_a_folder_they_are_left_out(make, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    (tmp_path / "in" / "a.txt").write_text("text")
    make(tmp_path / "in" / "b.txt") if make is not make_socket else make("b.txt")
    assert load_corpus(str(tmp_path / "in")).num_files == 1


@pytest.mark.parametrize("name", ["tokens.bin", "documents.npy"])
def test_in_a_token_folder_they_are_refused(name, tmp_path):
    (tmp_path / "a.txt").write_text("some text")
    prepare(PrepareJob([str(tmp_path / "a.txt")], tmp_path / "tokens"))
    (tmp_path / "tokens" / name).unlink()
    make_pipe(tmp_path / "tokens" / name)
    with pytest.raises(ValueError, match=f"{name} is a pipe, socket or device"):
        load_corpus(str(tmp_path / "tokens"))


def test_as_a_tokenizer_they_are_refused(tmp_path):
    make_pipe(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="tokenizer.json is a pipe, socket or device"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("packing", ["windows", "documents"])
def test_a_file_that_is_cut_is_noticed_before_it_is_read(packing, tmp_path):
    (tmp_path / "a.txt").write_text("some text, not much of it. " * 400)
    prepare(PrepareJob([str(tmp_path / "a.txt")], tmp_path / "tokens"))
    data = make_data(
        load_corpus(str(tmp_path / "tokens")), seq_len=64, eval_fraction=0.1, seed=0,
        packing=packing,
    )
    sizes = {"num_microbatches": 2, "microbatch_size": 1}
    before = data.batch(0, **sizes)
    tokens = tmp_path / "tokens" / "tokens.bin"
    whole = tokens.read_bytes()
    os.truncate(tokens, 100)
    with pytest.raises(ValueError, match="tokens.bin was cut to 100 bytes while it was read"):
        data.batch(0, **sizes)
    with pytest.raises(ValueError, match="was cut to 100 bytes"):
        data.held_out(None, **sizes)
    tokens.write_bytes(whole)
    np.testing.assert_array_equal(data.batch(0, **sizes).tokens, before.tokens)
    tokens.unlink()  # what is mapped stays
    tokens.write_bytes(b"of another preparation")
    np.testing.assert_array_equal(data.batch(0, **sizes).tokens, before.tokens)
