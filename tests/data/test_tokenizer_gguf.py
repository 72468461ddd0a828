"""The tokenizer inside a GGUF: words cut as its name says, and everything else refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("gguf", reason="needs the extra hf")

from gguf import GGUFWriter

from seq1f1b_jax.data import load_tokenizer
from tests.data.gguf_files import add_tokenizer, byte_level, sentencepiece, write_gguf


def load(folder, entries):
    return load_tokenizer(write_gguf(folder / "tiny.gguf", entries))


def names(tokenizer, text):
    return [tokenizer._inner.id_to_token(token) for token in tokenizer.encode(text)]


WORDS = {  # how "the 1212 e\u0301" is cut shows the pattern
    "gpt-2": ["Ġthe", "12", "12"],
    "smollm": ["Ġthe", "1", "2", "1", "2"],
    "llama-bpe": ["<|start|>", "Ġthe", "12", "1", "2"],
    "qwen2": ["Ġthe", "1", "2", "1", "2"],
}


@pytest.mark.parametrize(("pre", "expected"), WORDS.items(), ids=WORDS.keys())
def test_words_are_cut_as_the_name_says(tmp_path, pre, expected):
    tokenizer = load(tmp_path, byte_level(pre=pre))
    assert names(tokenizer, " the1212") == expected
    assert tokenizer.decode([tokenizer.eos]) == "<|end|>"
    composed = tokenizer.decode(tokenizer.encode("e\u0301", specials=False))
    assert composed == ("\u00e9" if pre == "qwen2" else "e\u0301")


def test_chat_templates_of_a_gguf(tmp_path):
    names = [*byte_level()["tokens"], "<|im_end|>"]
    entries = byte_level(tokens=names, eot_token_id=len(names) - 1)
    entries["token_type"] = [1] * (len(names) - 3) + [3] * 3
    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(str(path), "llama")
    add_tokenizer(writer, entries)
    writer.add_chat_template([
        {"name": "default", "template": "{{ bos_token }}{{ messages }}"},
        {"name": "rag", "template": "R"},
    ])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    tokenizer = load_tokenizer(path)
    assert tokenizer.chat.templates == {"default": "{{ bos_token }}{{ messages }}", "rag": "R"}
    assert tokenizer.chat.tokens == {"bos_token": "<|start|>", "eos_token": "<|end|>"}
    assert [tokenizer.decode([stop]) for stop in tokenizer.stops] == ["<|end|>", "<|im_end|>"]
    tokenizer.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert (again.chat, again.stops) == (tokenizer.chat, tokenizer.stops)


def test_special_tokens_of_a_gguf(tmp_path):
    tokenizer = load(tmp_path, byte_level())
    assert tokenizer.encode("<|end|>") == [tokenizer.eos]
    assert len(tokenizer.encode("<|end|>", specials=False)) == 7
    assert tokenizer.count_bytes(np.array([tokenizer.eos, *tokenizer.encode(" the")])) == 4
    assert load(tmp_path, byte_level(add_bos_token=True)).prefix == (tokenizer.eos + 1,)
    assert load(tmp_path, byte_level(pre="llama-bpe", add_bos_token=False)).prefix == ()


@pytest.fixture(scope="module")
def spm(tmp_path_factory):
    return load(tmp_path_factory.mktemp("spm"), sentencepiece())


def test_sentencepiece_joins_the_best_score_first(spm):
    assert names(spm, "the") == ["<s>", "▁the"]
    assert names(spm, "ethe") == ["<s>", "▁", "e", "t", "he"]  # he scores better than th
    assert spm.encode("<s>", specials=False) != [1] and spm.encode("<s>") == [1, 1]


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_sentencepiece_brings_text_back_and_streams_it(spm, text):
    ids = spm.encode(text, specials=False)
    stream = spm.decode_stream()
    assert "".join(map(stream.step, ids)) + stream.finish() == spm.decode(ids)
    if "▁" not in text:
        assert spm.decode(ids) == text


REFUSED = {
    "kind": (dict(model="bert"), "a tokenizer of kind 'bert'; gpt2 and llama are supported"),
    "pre": (dict(pre="tekken"), "pre is 'tekken', which is none of gpt-2, smollm"),
    "no-pre": (dict(pre=None), "pre is None, which is none of"),
    "no-merges": (dict(merges=None), "merges has none, and the tokenizer needs a list of type str"),
    "merge": (dict(merges=["a b c"]), "merges has 'a b c'; a pair is two"),
    "strange-merge": (dict(merges=["a zz"]), "holds no tokenizer that can be used"),
    "twice": (dict(tokens=["a", "b", "a"]), "has 3 names, 2 of them different"),
    "types": (dict(token_type=[1, 1]), "token_type has 2 values, and the tokenizer needs 262"),
    "eos": (dict(eos_token_id=262), "eos_token_id is 262, which is no token"),
    "eos-text": (dict(eos_token_id="2"), "eos_token_id is 2, which is no token"),
    "pres": (dict(pre=["gpt-2"]), r"pre is \['gpt-2'\], which is none of"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, byte_level(**changes))


def test_scores_for_every_token(tmp_path):
    with pytest.raises(ValueError, match="scores has 2 values, and the tokenizer needs 267"):
        load(tmp_path, sentencepiece(scores=[1.0, 2.0]))
