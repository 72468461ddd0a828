"""A long document in pieces: the tokens of the whole, whatever stands where it is cut."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq1f1b_jax.data import load_corpus, load_tokenizer
from seq1f1b_jax.data.prepare import pieces
from seq1f1b_jax.data.prepare.pieces import cut_text, encode_text
from seq1f1b_jax.data.prepare.run import PrepareJob, prepare
from seq1f1b_jax.data.tokenizer.from_gguf import LLAMA3, QWEN2
from seq1f1b_jax.data.tokenizer.train import train_on_texts
from tests.data.test_tokenizer import TEXT

# of several alphabets, digits, quotes, runs of spaces and lines, accents that compose
WORDS = [
    "to", "be", "it's", "Übung", "слово", "東京", "字。", "語", "한국", "हिन्दी", "e\u0301", "12345",
    "7", "x1y", "--", "...", "\n", "\r\n", "\n\n\n", " ", "   ", "\t", " \n ", "🤖", "👩\u200d💻",
    "\u00a0", "<|endoftext|>", "<|endoftext|>", "<|endof", "text|>", "'ll", "don't", "_", "'",
]
documents = st.lists(st.sampled_from([*WORDS, *[" " + word for word in WORDS]]), max_size=80).map(
    "".join
)
BPE = train_on_texts([TEXT, "東京 字。語 слово Übung don't 12345\n\n\n   x" * 9] * 3, 420)


def split(pattern):
    return {
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False
    }


def byte_level(**settings):
    return {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True,
        **settings,
    }


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": [*parts, byte_level(use_regex=False)]}


O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DIGITS = {"type": "Digits", "individual_digits": True}
CUT = {  # pre-tokenizer, normalizer
    "gpt2": (byte_level(), None),
    "smollm": ({"type": "Sequence", "pretokenizers": [DIGITS, byte_level()]}, None),
    "llama3": (sequence(split(LLAMA3)), None),
    "qwen2": (sequence(split(QWEN2)), {"type": "NFC"}),
    "o200k": (sequence(split(O200K)), None),
    "digits-from-the-right": (
        sequence(split(r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))"), split(QWEN2)), None
    ),
    "prefix-space": (byte_level(add_prefix_space=True), None),
}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
WHOLE = {
    "metaspace": (METASPACE, None),
    "sentencepiece": (
        None, {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
    ),
    "no-pre-tokenizer": (None, None),
    "lower-case": (byte_level(), {"type": "Lowercase"}),
    "two-words": (sequence(split("[a-z]+ [a-z]+")), None),
}


def made(folder, pre_tokenizer, normalizer):
    described = json.loads(BPE._inner.to_str())
    described |= {"pre_tokenizer": pre_tokenizer, "normalizer": normalizer}
    if pre_tokenizer == METASPACE:
        described["decoder"] = METASPACE
    (folder / "tokenizer.json").write_text(json.dumps(described))
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    cases = (CUT | WHOLE).items()
    return {name: made(tmp_path_factory.mktemp(name), *parts) for name, parts in cases}


def joined(tokenizer, text, *, keep):
    parts = encode_text(tokenizer, text, np.dtype("u4"), keep_specials=keep)
    return [token for ids in parts for token in ids.tolist()]


@pytest.mark.parametrize("name", CUT)
@settings(deadline=None, max_examples=60)
@given(text=documents, keep=st.booleans(), size=st.integers(1, 40))
def test_tokens_are_those_of_the_whole(tokenizers, name, text, keep, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE_CHARACTERS", size)
        found = joined(tokenizers[name], text, keep=keep)
    assert found == tokenizers[name].encode(text, specials=keep)


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize(
    "words", ["the words of it, ", "слово и дело ", "東京は、首都。", "1 22 333\n", "x = y[1];\n"]
)
def test_every_alphabet_is_cut(tokenizers, monkeypatch, name, words):
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", 400)
    text = words * 150
    cut = list(cut_text(tokenizers[name], text))
    assert "".join(cut) == text
    if name != "prefix-space" or words.isascii() and "\n" not in words:
        assert max(map(len, cut)) < 600


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("run", ["\n", " ", "1", "東", "-"])
def test_runs_longer_than_what_is_looked_at(tokenizers, monkeypatch, name, run):
    monkeypatch.setattr(pieces, "CONTEXT", 24)
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", 10)
    for length in range(76, 82):
        text = f"to be --{length * run}<|endoftext|><|endoftext|> \n{length * run} be"
        for keep in (False, True):
            expected = tokenizers[name].encode(text, specials=keep)
            assert joined(tokenizers[name], text, keep=keep) == expected


@pytest.mark.parametrize("name", CUT)
def test_text_files_have_the_tokens_of_the_whole(tmp_path, small_portions, monkeypatch, name):
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", 10)
    tokenizer = made(tmp_path, *CUT[name])
    text = " be it ".join(WORDS * 2) + TEXT
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="")
    source, tokenizer_at = [str(tmp_path / "a.txt")], str(tmp_path)
    job = PrepareJob(source, tmp_path / "out", tokenizer=tokenizer_at, specials="keep")
    meta = prepare(job)
    assert load_corpus(str(tmp_path / "out")).tokens.tolist() == tokenizer.encode(text)
    assert meta.num_special == 4


@pytest.mark.parametrize("name", WHOLE)
def test_what_cannot_be_proven_stays_whole(tokenizers, monkeypatch, name):
    monkeypatch.setattr(pieces, "PIECE_CHARACTERS", 10)
    assert list(cut_text(tokenizers[name], TEXT)) == [TEXT]


def test_a_tokenizer_that_cannot_cut_is_told(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("seq1f1b_jax.data.prepare.run.PIECE_CHARACTERS", 10)
    (tmp_path / "a.txt").write_text("to be or not to be")
    for name, parts in {"cut": CUT["gpt2"], "whole": WHOLE["sentencepiece"]}.items():
        made(tmp_path, *parts)
        job = PrepareJob([str(tmp_path / "a.txt")], tmp_path / name, tokenizer=str(tmp_path))
        prepare(job, say=said.append)
    assert len(said) == 1 and "every document is encoded whole" in said[0]


MEASURED = """
import resource, sys
from pathlib import Path
from seq1f1b_jax.data.prepare.run import PrepareJob, prepare
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
prepare(PrepareJob([sys.argv[1]], Path(sys.argv[2]), tokenizer=sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_one_long_document_takes_less_than_ten_times_its_bytes(tmp_path):
    BPE.save(tmp_path)
    text = TEXT * 3000  # the whole of it at once takes 250 MB
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}, ensure_ascii=False))
    size = (tmp_path / "a.jsonl").stat().st_size
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path / "a.jsonl", tmp_path / "out", tmp_path],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True, timeout=120,
    )
    before, after = (1024 * int(line) for line in run.stdout.split())
    pieces_of_it = 64e6  # what the library takes for one piece, however long the document is
    assert size > 2e6 and after - before < 10 * size + pieces_of_it
