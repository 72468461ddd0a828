"""Which tokens of a conversation count, against texts marked by hand, for templates in use."""

from datetime import datetime

import numpy as np
import pytest

from seq1f1b_jax.data import load_corpus, load_tokenizer
from seq1f1b_jax.data.__main__ import CLOSE, OPEN, main
from seq1f1b_jax.data.prepare.run import PrepareJob, prepare
from seq1f1b_jax.data.tokenizer.chat.template import ChatTemplate, Refused
from seq1f1b_jax.data.tokenizer.chat.turns import end_of_turn, find_turns, tokens_within
from tests.data.chats import (
    CHATML,
    FORGETFUL,
    GEMMA,
    LLAMA3,
    MARKED,
    MISTRAL,
    save_tokenizer,
    turns,
    write_chats,
)

TWO = turns("to be?", "or not", "that is", "the question 🤖")
NOW = datetime(2001, 2, 3)
# Style -> (template, conversation, what the model reads; what counts stands between brackets).
STYLES = {
    "chatml": (
        CHATML, TWO,
        "<|im_start|>system\nBe helpful.<|im_end|>\n<|im_start|>user\nto be?<|im_end|>\n"
        "<|im_start|>assistant\n⟦or not<|im_end|>\n⟧<|im_start|>user\nthat is<|im_end|>\n"
        "<|im_start|>assistant\n⟦the question 🤖<|im_end|>\n⟧",
    ),
    "chatml, a system turn": (
        CHATML, turns("be", "not", system="question"),
        "<|im_start|>system\nquestion<|im_end|>\n<|im_start|>user\nbe<|im_end|>\n"
        "<|im_start|>assistant\n⟦not<|im_end|>\n⟧",
    ),
    "chatml, the user has the last word": (
        CHATML, turns("be", "not", "or"),
        "<|im_start|>system\nBe helpful.<|im_end|>\n<|im_start|>user\nbe<|im_end|>\n"
        "<|im_start|>assistant\n⟦not<|im_end|>\n⟧<|im_start|>user\nor<|im_end|>\n",
    ),
    "llama 3": (
        LLAMA3, TWO,
        "<s><|start_header_id|>user<|end_header_id|>\n\nto be?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦or not<|eot_id|>⟧"
        "<|start_header_id|>user<|end_header_id|>\n\nthat is<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦the question 🤖<|eot_id|>⟧",
    ),
    "gemma": (
        GEMMA, TWO,
        "<s><start_of_turn>user\nto be?<end_of_turn>\n<start_of_turn>model\n"
        "⟦or not<end_of_turn>\n⟧<start_of_turn>user\nthat is<end_of_turn>\n"
        "<start_of_turn>model\n⟦the question 🤖<end_of_turn>\n⟧",
    ),
    "mistral": (
        MISTRAL, TWO,
        "<s>[INST] to be? [/INST]⟦ or not</s>⟧[INST] that is [/INST]⟦ the question 🤖</s>⟧",
    ),
    "marked by the template": (
        MARKED, TWO,
        "<|im_start|>user\nto be?<|im_end|>\n<|im_start|>assistant\n⟦or not<|im_end|>⟧\n"
        "<|im_start|>user\nthat is<|im_end|>\n<|im_start|>assistant\n"
        "⟦the question 🤖<|im_end|>⟧\n",
    ),
    "one answer, whose reasoning stays": (
        FORGETFUL, turns("be", "or/not"),
        "<|im_start|>user\nbe<|im_end|>\n<|im_start|>assistant\n⟦or/not<|im_end|>\n⟧",
    ),
}


@pytest.mark.parametrize(("template", "chat", "marked"), STYLES.values(), ids=STYLES)
@pytest.mark.parametrize("bos_first", [False, True], ids=["", "the tokenizer adds a bos"])
def test_the_assistants_turns_count(tmp_path, capsys, template, chat, marked, bos_first):
    model = save_tokenizer(tmp_path / "model", template, bos_first=bos_first)
    source = write_chats(tmp_path / "a.jsonl", [chat])
    prepare(PrepareJob([str(source)], tmp_path / "out", str(model), messages="messages"))
    corpus = load_corpus(str(tmp_path / "out"))
    text = marked.replace(OPEN, "").replace(CLOSE, "")
    tokenizer = load_tokenizer(model)
    ids = tokenizer.encode(text)
    assert corpus.tokens.tolist() == ids[len(tokenizer.prefix) :]  # the template's bos alone
    assert len(tokenizer.prefix) == bos_first
    assert main(["show", str(tmp_path / "out"), "--document", "0"]) == 0
    assert capsys.readouterr().out == marked + "\n"
    parts = [part for piece in marked.split(OPEN)[1:] for part in piece.split(CLOSE)[:1]]
    assert corpus.num_counted == sum(len(tokenizer.encode_spans(part)[0]) for part in parts)


REFUSED = {
    "reasoning is left out of earlier turns": (
        FORGETFUL, turns("be", "or/not", "is", "that"), "writes turn 1, or one before it, otherwise"
    ),
    "a prompt that the turn does not begin with": (
        CHATML.replace("assistant\n'", "assistant\n<think>'"), turns("be", "or"),
        "turn 1 otherwise than its prompt",
    ),
    "roles do not alternate": (
        GEMMA, [*turns("be", "or"), turns("is")[0], turns("is")[0], turns("", "x")[1]],
        "does not render it: roles must alternate",
    ),
    "a system turn": (GEMMA, turns("be", "or", system="x"), "System role not supported"),
    "no assistant": (CHATML, turns("be"), "no turn of the assistant"),
    "the assistant begins": (MISTRAL, turns("", "or")[1:], "roles must alternate"),
    "no content": (CHATML, [{"role": "user"}, {"role": "assistant"}], "does not render it"),
    "it asks for too much": ("{% for i in range(10**9) %}x{% endfor %}", turns("a", "b"), "range"),
    "it looks behind the sandbox": (
        "{{ messages.__class__.__mro__[1].__subclasses__() }}", turns("a", "b"), "unsafe"
    ),
    "it changes the messages": ("{{ messages.append(1) }}", turns("a", "b"), "unsafe"),
}


@pytest.mark.parametrize(("template", "chat", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_certain_is_refused(template, chat, reason):
    found = ChatTemplate(template, tokens={"bos_token": "<s>", "eos_token": "</s>"}, now=NOW)
    with pytest.raises(Refused, match=reason) as caught:
        find_turns(found, chat)
    assert "\n" not in str(caught.value)


MARK = "{% generation %}a{% endgeneration %}"


@pytest.mark.parametrize(
    "around",
    ["{% macro m() %}?{% endmacro %}", "{% set x %}?{% endset %}",
     "{% filter trim %}?{% endfilter %}", "{% generation %}?{% endgeneration %}",
     "{% for a in b recursive %}?{% endfor %}",
     "{% call m() %}?{% endcall %}"],
)  # fmt: skip
def test_a_mark_that_is_written_later_is_refused(around):
    with pytest.raises(ValueError, match="its place in the text is unknown; give another"):
        ChatTemplate(around.replace("?", MARK), tokens={}, now=NOW)
    assert ChatTemplate(MARK, tokens={}, now=NOW).render([]).marked == ((0, 1),)


def test_what_templates_may_use():
    text = "{{ strftime_now('%d %b %Y') }} {{ {'a': '<é>'} | tojson }}{% break %}"
    text = "{% for m in messages %}" + text + "{% endfor %}{{ tools is none }}{{ nothing }}"
    messages = [{"role": "user", "content": "x", "tool_calls": None}, {"role": "user"}]
    assert ChatTemplate(text, tokens={}, now=NOW).render(messages).text == (
        '03 Feb 2001 {"a": "<é>"}True'
    )
    called = "{% for m in messages %}{{ m.tool_calls is defined }}{% endfor %}"
    assert ChatTemplate(called, tokens={}, now=NOW).render(messages).text == "FalseFalse"


def test_tokens_within_spans_are_those_of_the_obvious_loop():
    rng = np.random.default_rng(0)
    for _ in range(200):
        cuts = np.sort(rng.choice(40, size=2 * rng.integers(0, 5), replace=False))
        spans = [(int(a), int(b)) for a, b in cuts.reshape(-1, 2)]
        edges = np.sort(rng.integers(0, 40, size=12)).tolist()
        tokens = list(zip(edges[:-1], edges[1:], strict=True))
        expected = [
            any(a < max(stop, start + 1) and start < b for a, b in spans) for start, stop in tokens
        ]
        assert tokens_within(spans, tokens).tolist() == expected


@pytest.mark.parametrize(
    ("template", "end"),
    [(CHATML, "<|im_end|>"), (LLAMA3, "<|eot_id|>"), (GEMMA, "<end_of_turn>"), (MISTRAL, "</s>"),
     ("{{ messages[0].content }}", None), ("{{ raise_exception('') }}", None)],
)  # fmt: skip
def test_where_an_answer_ends(tmp_path, template, end):
    tokenizer = load_tokenizer(save_tokenizer(tmp_path, template))
    found = ChatTemplate(template, tokens=tokenizer.chat.tokens, now=NOW)
    expected = None if end is None else tokenizer.encode_spans(end)[0][0]
    assert end_of_turn(found, tokenizer) == expected
