"""Special tokens spelled in documents: text unless asked for, and counted either way."""

import json

import pytest

from seq1f1b_jax.data import load_corpus
from seq1f1b_jax.data.__main__ import main
from seq1f1b_jax.data.folder import read_meta
from seq1f1b_jax.data.prepare import pieces
from seq1f1b_jax.data.prepare.loss_mask import spelling_pattern
from seq1f1b_jax.data.prepare.run import PrepareJob, prepare
from tests.data.prepared import documents, json_lines
from tests.data.test_prepare import bpe
from tests.data.test_tokenizer import BPE, save_with_prefix

__all__ = ["bpe"]  # a fixture
TEXTS = ["to be<|endoftext|> or<|endoftext|><|endoftext|> not", "<|endof text|>", "<|endoftext|>"]


@pytest.mark.parametrize("specials", ["text", "keep"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_spellings_are_counted_and_read_as_asked(tmp_path, bpe, small_portions, specials, name):
    text = " and more of it. ".join(TEXTS * 9)
    (tmp_path / name).write_text(json_lines(TEXTS * 9) if name == "a.jsonl" else text)
    job = PrepareJob([str(tmp_path / name)], tmp_path / "out", tokenizer=bpe, specials=specials)
    meta = prepare(job)
    assert (meta.special_tokens, meta.num_special) == (specials, 36)
    assert read_meta(tmp_path / "out" / "meta.json") == meta
    ids = load_corpus(str(tmp_path / "out")).tokens.tolist()
    assert ids.count(BPE.eos) == meta.num_documents + (36 if specials == "keep" else 0)
    assert documents(tmp_path / "out") == (TEXTS * 9 if name == "a.jsonl" else [text])


def test_kept_tokens_are_those_of_a_prompt_without_its_beginning(tmp_path, monkeypatch):
    save_with_prefix(tmp_path)
    (tmp_path / "a.txt").write_text(TEXTS[0] * 20)
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", 16)
    source = [str(tmp_path / "a.txt")]
    prepare(PrepareJob(source, tmp_path / "out", tokenizer=str(tmp_path), specials="keep"))
    assert load_corpus(str(tmp_path / "out")).tokens.tolist() == BPE.encode("<|endoftext|>") + (
        BPE.encode(TEXTS[0] * 20)
    )


def test_the_longest_spelling_counts():
    pattern = spelling_pattern(["<s>", "<s>x", "", "[a]"])
    assert len(pattern.findall("<s>x <s> [a] <s <s>y")) == 4
    assert pattern.findall("<s>x") == ["<s>x"] and spelling_pattern(()) is None


def test_the_command_says_how_many(tmp_path, bpe, capsys):
    (tmp_path / "a.jsonl").write_text(json_lines(TEXTS))
    for specials, told in {"text": "read as ordinary text", "keep": "kept as special"}.items():
        to = str(tmp_path / specials)
        command = ["prepare", str(tmp_path / "a.jsonl"), "--to", to, "--tokenizer", bpe]
        assert main([*command, "--special-tokens", specials, "--processes", "1"]) == 0
        shown = capsys.readouterr().out
        assert f"special tokens  4 spelled in the documents, {told}" in shown
    assert main([*command[:3], str(tmp_path / "bytes"), "--special-tokens", "keep"]) == 2
    assert "--special-tokens keep: bytes has no special tokens" in capsys.readouterr().err


def test_a_folder_of_before_says_nothing(tmp_path, bpe, capsys):
    (tmp_path / "a.jsonl").write_text(json_lines(TEXTS))
    prepare(PrepareJob([str(tmp_path / "a.jsonl")], tmp_path / "out", tokenizer=bpe))
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    del meta["special_tokens"], meta["num_special"]
    (tmp_path / "out" / "meta.json").write_text(json.dumps(meta))
    assert main(["show", str(tmp_path / "out")]) == 0
    assert "special tokens" not in capsys.readouterr().out
