"""Prompts: token ids, and turns of a conversation; where a sampled text ends."""

import json

import pytest

from seq1f1b_jax.data import load_tokenizer
from seq1f1b_jax.inference.sampling import chat_prompt, encode, pieces, text_prompt
from tests.data.chats import CHATML, GEMMA, save_tokenizer


def test_ids_between_spaces():
    assert encode(" 7 0  12", None).tolist() == [[7, 0, 12]]


@pytest.mark.parametrize("prompt", ["def", "-1", "1.5", "\N{SUPERSCRIPT TWO}", "9" * 30])
def test_what_is_no_id(prompt):
    with pytest.raises(ValueError, match="was trained on token ids, not on text; give token ids"):
        encode(prompt, None)


@pytest.mark.parametrize(
    ("template", "system", "text"),
    [(CHATML, "be", "<|im_start|>system\nbe<|im_end|>\n<|im_start|>user\nto?<|im_end|>\n"
      "<|im_start|>assistant\n"),
     (GEMMA, None, "<s><start_of_turn>user\nto?<end_of_turn>\n<start_of_turn>model\n")],
)  # fmt: skip
def test_a_turn_is_written_by_the_template(tmp_path, template, system, text):
    tokenizer = load_tokenizer(save_tokenizer(tmp_path, template, bos_first=True))
    prompt = chat_prompt("to?", tokenizer, system=system)
    assert [prompt.tokens.tolist()] == [[tokenizer.encode(text)[1:]]]  # no second bos
    assert prompt.shown == ""


def test_a_text_ends_with_any_end(tmp_path):
    folder = save_tokenizer(tmp_path)
    tokenizer = load_tokenizer(folder)
    ids = {name: tokenizer.encode(name)[0] for name in ("</s>", "<|im_end|>", "<|eot_id|>")}
    ends = json.dumps({"eos_token_id": [ids["<|eot_id|>"]]})
    (folder / "generation_config.json").write_text(ends)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos == ids["</s>"]
    assert text_prompt("to", tokenizer).stops == (ids["</s>"], ids["<|eot_id|>"])
    stops = chat_prompt("to", tokenizer).stops
    assert set(stops) == set(ids.values())  # the last is where the template ends a turn
    for end in ids.values():
        sampled = iter([*tokenizer.encode("not"), end, 5])
        assert "".join(pieces(sampled, tokenizer, stops=stops)) == "not"
        assert next(sampled) == 5  # nothing is sampled behind it
    (tmp_path / "again").mkdir()
    tokenizer.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").stops == tokenizer.stops


@pytest.mark.parametrize("tokenizer", [None, "bytes"])
def test_a_chat_needs_a_template(tokenizer):
    with pytest.raises(ValueError, match="--chat needs a chat template, and the model"):
        chat_prompt("to?", tokenizer and load_tokenizer(tokenizer))
