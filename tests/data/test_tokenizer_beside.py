"""Tokens that stand only in the files beside a tokenizer.json."""

import json

import pytest

from seq1f1b_jax.data import load_tokenizer
from tests.data.test_tokenizer import BPE, TEXT
from tests.data.tokenizer_files import BESIDE, ONLY_4, ONLY_5, token

ALL = {**BESIDE, **ONLY_4, **ONLY_5}


def write(folder, files):
    BPE._inner.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("case", ALL)
def test_tokens_beside_the_file_are_tokens(tmp_path, case):
    files, added = ALL[case]
    tokenizer = load_tokenizer(write(tmp_path, files))
    for name, expected in added.items():
        token_id = BPE._inner.token_to_id(name) if expected is None else expected
        ids = tokenizer.encode(f"be{name}be")
        assert ids == [*BPE.encode("be"), token_id, *BPE.encode("be")]
        assert tokenizer.decode([token_id]) == name and tokenizer.vocab_size > token_id
    assert tokenizer.encode("a question") == BPE.encode("a question")
    loaded = save_and_load(tokenizer, tmp_path / "saved")
    assert (loaded.sha256, loaded.eos) == (tokenizer.sha256, tokenizer.eos)


def save_and_load(tokenizer, folder):
    folder.mkdir()
    tokenizer.save(folder)
    return load_tokenizer(folder)


def test_special_ones_are_only_text_in_a_corpus_and_others_are_not(tmp_path):
    entries = {"300": token("<|a|>"), "301": token("<think>", special=False)}
    files = {"tokenizer_config.json": {"added_tokens_decoder": entries}}
    tokenizer = load_tokenizer(write(tmp_path, files))
    ids = tokenizer.encode("<|a|><think>", specials=False)
    assert 300 not in ids and ids[-1] == 301
    assert (tokenizer.token_bytes[300], tokenizer.token_bytes[301]) == (0, 7)


def test_an_older_file_takes_nothing_from_a_token_that_is_there(tmp_path):
    files, _ = BESIDE["an older file names one that is there"]
    ids = load_tokenizer(write(tmp_path, files)).encode("<|endoftext|><x>", specials=False)
    assert 0 not in ids and ids[-1] == 300


def test_the_end_of_a_document_is_that_of_the_older_map(tmp_path):
    files, added = BESIDE["the older files"]
    assert load_tokenizer(write(tmp_path, files)).eos == added["<|im_end|>"]
    (tmp_path / "none").mkdir()
    nothing = write(tmp_path / "none", {"tokenizer_config.json": {"eos_token": ""}})
    assert load_tokenizer(nothing).eos is None


def test_an_ordinary_piece_behind_documents_stays_one(tmp_path):
    write(tmp_path, {})
    tokenizer = load_tokenizer(tmp_path, eos="Ġbe")
    loaded = save_and_load(tokenizer, tmp_path / "saved")
    assert (loaded.sha256, loaded.eos) == (tokenizer.sha256, tokenizer.eos)
    assert loaded.encode("Ġbe" + TEXT) == BPE.encode("Ġbe" + TEXT)


REFUSED = {
    "two ids": (
        {"tokenizer_config.json": {"added_tokens_decoder": {"305": token("<|a|>")}}},
        "tokenizer_config.json gives '<|a|>' the id 305, and with tokenizer.json it has 300"),
    "another token's id": (
        {"added_tokens.json": {"<x>": 0}}, "added_tokens.json gives '<x>' the id 0, and with"),
    "no ids": (
        {"tokenizer_config.json": {"added_tokens_decoder": {"a": token("<|a|>")}}},
        "added_tokens_decoder is not an object with ids as names"),
    "no token": (
        {"tokenizer_config.json": {"added_tokens_decoder": {"300": 3}}}, "3 is no token"),
    "no content": ({"tokenizer_config.json": {"pad_token": {"lstrip": True}}}, "is no token"),
    "no list": (
        {"tokenizer_config.json": {"additional_special_tokens": 3}},
        "additional_special_tokens is not a list of tokens"),
    "text for an id": ({"added_tokens.json": {"<x>": "300"}}, "gives '<x>' the id '300', which is"),
    "a space before texts": (
        {"tokenizer_config.json": {"add_prefix_space": True}},
        "says add_prefix_space=True and tokenizer.json False"),
    "no object": ({"added_tokens.json": ["<x>"]}, "added_tokens.json is a JSON list, not an obj"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_contradict_or_are_broken_are_refused(tmp_path, case):
    files, message = REFUSED[case]
    with pytest.raises(ValueError) as error:
        load_tokenizer(write(tmp_path, files))
    assert message in str(error.value) and "\n" not in str(error.value)
