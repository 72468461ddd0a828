"""Text to tokens and back: every text survives, nothing is recognised that must not be."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq1f1b_jax.data import load_tokenizer, train_bpe
from seq1f1b_jax.data.tokenizer.train import train_on_texts

TEXT = "to be or not to be, that is the question:\n\tnaïve café 東京 🤖 12345 isn't it?\n" * 9
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
BPE = train_on_texts([TEXT], 300)
ALL = {"bytes": load_tokenizer("bytes"), "bpe": BPE}


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None)
@given(text=texts)
def test_every_text_comes_back(name, text):
    tokenizer = ALL[name]
    for specials in (True, False):
        ids = tokenizer.encode(text, specials=specials)
        assert tokenizer.decode(ids) == text
        assert all(0 <= token < tokenizer.vocab_size for token in ids)


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None)
@given(text=texts)
def test_a_stream_shows_the_same_and_never_half_a_character(name, text):
    tokenizer = ALL[name]
    stream = tokenizer.decode_stream()
    pieces = [stream.step(token) for token in tokenizer.encode(text, specials=False)]
    assert "".join(pieces) == text and stream.finish() == ""


@pytest.mark.parametrize("name", ALL)
@settings(deadline=None)
@given(text=texts)
def test_bytes_of_tokens_are_bytes_of_text(name, text):
    tokenizer = ALL[name]
    targets = np.array([[*tokenizer.encode(text, specials=False), tokenizer.eos, -1]])
    zeros = text.count("\0") if name == "bytes" else 0  # which no corpus of bytes holds
    assert tokenizer.count_bytes(targets) == len(text.encode()) - zeros


@settings(deadline=None)
@given(st.lists(st.integers(0, 400)))
def test_any_tokens_can_be_shown(ids):
    for tokenizer in ALL.values():
        stream = tokenizer.decode_stream()
        shown = "".join(map(stream.step, ids)) + stream.finish()
        assert shown == tokenizer.decode(ids)


def test_a_character_that_never_ends_is_shown_at_the_end():
    stream = load_tokenizer("bytes").decode_stream()
    assert [stream.step(byte) for byte in "a€".encode()[:3]] == ["a", "", ""]
    assert stream.finish() == "\ufffd"


def test_special_tokens_are_for_prompts_and_plain_text_in_corpora():
    text = "be<|endoftext|>be"
    assert BPE.encode(text).count(BPE.eos) == 1
    assert BPE.eos not in BPE.encode(text, specials=False)
    assert BPE.encode_batch([text, "be"]) == [BPE.encode(text, specials=False), BPE.encode("be")]
    assert BPE.decode(BPE.encode(text, specials=False)) == text


def test_half_a_surrogate_pair_is_refused():
    for tokenizer in ALL.values():
        with pytest.raises(ValueError, match=r"character 2 of the text is '\\ud800'"):
            tokenizer.encode("ab\ud800")


def test_a_trained_tokenizer_merges_and_is_the_same_each_time(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    first, second = (train_bpe([tmp_path / "a.txt"], 300) for _ in range(2))
    assert first.sha256 == second.sha256 == BPE.sha256 and first.vocab_size == 300
    assert len(first.encode("not to be")) < 6
    assert first.decode([first.eos]) == "<|endoftext|>" and first.can_cut_text
    with pytest.raises(ValueError, match="a vocabulary of 256 tokens; it has 257 at least"):
        train_bpe([tmp_path / "a.txt"], 256)


CUTTERS = {
    "space-before-letters": (r" ?\p{L}+|\s+|[^\s\p{L}]+", True),
    "space-after-letters": (r"\p{L}+ ?|\s+|[^\s\p{L}]+", False),
    "two-words": (r"[a-z]+ [a-z]+", False),
    "looks-ahead": (r"\p{L}+(?= )|\p{L}| |[^\p{L} ]+", False),
}


@pytest.mark.parametrize(("pattern", "safe"), CUTTERS.values(), ids=CUTTERS.keys())
def test_texts_are_cut_only_where_words_end(tmp_path, pattern, safe):
    described = json.loads(BPE._inner.to_str())
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    level = {**described["pre_tokenizer"], "use_regex": False}
    described["pre_tokenizer"] = {
        "type": "Sequence", "pretokenizers": [{**split, "invert": False}, level]
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    assert load_tokenizer(tmp_path).can_cut_text == safe


# ---- files


def test_saved_and_loaded_it_is_the_same(tmp_path):
    BPE.save(tmp_path)
    for source in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = load_tokenizer(source)
        assert (loaded.sha256, loaded.eos) == (BPE.sha256, BPE.eos)
        assert loaded.encode(TEXT) == BPE.encode(TEXT)


EOS = {
    "named": ({"tokenizer_config.json": {"eos_token": "to"}}, "to"),
    "as-an-object": ({"tokenizer_config.json": {"eos_token": {"content": "be"}}}, "be"),
    "by-number": ({"generation_config.json": {"eos_token_id": 65}}, 65),
    "several": ({"generation_config.json": {"eos_token_id": [66, 65]}}, 66),
    "in-config": ({"config.json": {"eos_token_id": 67}}, 67),
    "negative": ({"generation_config.json": {"eos_token_id": -5}}, None),
    "huge": ({"generation_config.json": {"eos_token_id": 2**40}}, None),
    "name-wins": ({"tokenizer_config.json": {"eos_token": "be"}, "config.json": {}}, "be"),
    "nowhere": ({}, None),
}


@pytest.mark.parametrize(("files", "expected"), EOS.values(), ids=EOS.keys())
def test_the_end_of_a_document_is_found_beside_the_tokenizer(tmp_path, files, expected):
    BPE._inner.save(str(tmp_path / "tokenizer.json"))
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    token = BPE._inner.token_to_id(expected) if isinstance(expected, str) else expected
    assert load_tokenizer(tmp_path).eos == token
    assert load_tokenizer(tmp_path, eos="Ġbe").eos == BPE._inner.token_to_id("Ġbe")


def test_a_text_is_never_cut_to_the_length_of_the_model_it_came_with(tmp_path):
    described = json.loads(BPE._inner.to_str())
    described["truncation"] = {
        "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    assert load_tokenizer(tmp_path).encode(TEXT) == BPE.encode(TEXT)


def save_with_prefix(folder):
    """BPE, with its special token before every prompt."""
    described = json.loads(BPE._inner.to_str())
    described["post_processor"] = {
        "type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
        "single": [
            {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "special_tokens": {
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(described))


def test_a_token_that_begins_texts_is_put_before_prompts_only(tmp_path):
    save_with_prefix(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.prefix == (0,)
    assert loaded.encode("be") == [0, *BPE.encode("be")]
    assert loaded.encode("be", specials=False) == BPE.encode("be")


def bpe_with(**settings):
    model = {"type": "BPE", "vocab": {"a": 0}, "merges": [], **settings}
    return json.dumps({"model": model})


REFUSED = {
    "malformed": ("{", "holds no tokenizer that can be used: EOF while parsing"),
    "other-json": ('{"model": {"type": "None"}}', "holds no tokenizer that can be used"),
    "panic": (  # in the library's own code, which is no `Exception`
        json.dumps({
            "normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="},
            "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
        }),
        "holds no tokenizer that can be used: Precompiled: Error",
    ),
    "not-utf8": (b"\xff", "is not UTF-8 .offset 0"),
    "huge-id": (bpe_with(vocab={"a": 0, "b": 2**32 - 1}), "its largest token is 4294967295; it"),
    "no-tokens": (bpe_with(vocab={}), "its largest token is -1; it must"),
    "chance": (bpe_with(dropout=0.5), "dropout=0.5 gives a text other tokens each time"),
    "no-unknown": (
        json.dumps({"model": {"type": "WordLevel", "vocab": {"b": 0}, "unk_token": "[UNK]"}}),
        "holds no tokenizer that can be used: WordLevel error: Missing .UNK. token",
    ),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_files(tmp_path, content, message, capfd):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(tmp_path)
    assert capfd.readouterr().err == ""  # it says so in one line, and prints no stack


def test_a_text_without_tokens(tmp_path):
    described = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": described}))
    with pytest.raises(ValueError, match="cannot encode the text: WordLevel error: Missing .UNK."):
        load_tokenizer(tmp_path).encode("b")


def test_refused_settings(tmp_path):
    with pytest.raises(ValueError, match="cannot read .*nowhere .No such file"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="cannot read .*tokenizer.json .No such file"):
        load_tokenizer(tmp_path)
    BPE.save(tmp_path)
    with pytest.raises(ValueError, match="eos='</s>' is not a token of"):
        load_tokenizer(tmp_path, eos="</s>")
    with pytest.raises(ValueError, match="eos='x': bytes end a document with a zero byte"):
        load_tokenizer("bytes", eos="x")
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(ValueError, match="tokenizer_config.json is not JSON"):
        load_tokenizer(tmp_path)
