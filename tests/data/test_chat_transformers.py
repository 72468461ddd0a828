"""Conversations as transformers renders, tokenizes and masks them (extra `hf`)."""

import json
import warnings

import pytest

from seq1f1b_jax.data import load_corpus, load_tokenizer
from seq1f1b_jax.data.prepare.run import PrepareJob, prepare
from seq1f1b_jax.inference import chat_prompt
from tests.data.chats import (
    CHATML,
    GEMMA,
    LLAMA3,
    MARKED,
    MISTRAL,
    conversations,
    save_tokenizer,
    turns,
    write_chats,
)

REASON = "needs the extra `hf`: pip install 'seq1f1b-jax[hf]'"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason=REASON)

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, not ours
STYLES = {
    "chatml": CHATML, "llama 3": LLAMA3, "gemma": GEMMA, "mistral": MISTRAL, "marked": MARKED,
}
CHATS = [*conversations(40), turns("naïve 東京 🤖", "🤖", "<|im_end|>", "  \n be \n ")]


def theirs(model):
    return transformers.AutoTokenizer.from_pretrained(str(model))


@pytest.mark.parametrize("style", STYLES)
def test_ids_and_masks_are_theirs(tmp_path, style):
    model = save_tokenizer(tmp_path / "model", STYLES[style], bos_first=style == "llama 3")
    source = write_chats(tmp_path / "a.jsonl", CHATS)
    prepare(PrepareJob([str(source)], tmp_path / "out", str(model), messages="messages"))
    corpus, tokenizer = load_corpus(str(tmp_path / "out")), theirs(tmp_path / "out")
    for n, chat in enumerate(CHATS):
        place = slice(*corpus.documents[n : n + 2])
        expected = tokenizer.apply_chat_template(
            chat, return_assistant_tokens_mask=style == "marked", return_dict=True
        )
        assert corpus.tokens[place].tolist() == expected["input_ids"]
        if style == "marked":
            assert corpus.loss_mask[place].tolist() == expected["assistant_masks"]
    prompt = chat_prompt("to be?", load_tokenizer(tmp_path / "out"))
    question = tokenizer.apply_chat_template(turns("to be?"), add_generation_prompt=True)
    assert prompt.tokens[0].tolist() == question["input_ids"]


PLACES = {
    "in the configuration": {"tokenizer_config.json": {"chat_template": "C"}},
    "several in the configuration": {
        "tokenizer_config.json": {
            "chat_template": [{"name": "default", "template": "C"},
                              {"name": "rag", "template": "R"}],
        },
    },
    "a file": {"chat_template.jinja": "J"},
    "a file wins": {
        "chat_template.jinja": "J", "tokenizer_config.json": {"chat_template": "C"}
    },
    "further files": {"chat_template.jinja": "J", "additional_chat_templates/rag.jinja": "R"},
    "further files win": {
        "additional_chat_templates/rag.jinja": "R", "tokenizer_config.json": {"chat_template": "C"}
    },
}  # fmt: skip


@pytest.mark.parametrize("files", PLACES.values(), ids=PLACES)
def test_templates_are_found_where_they_look(tmp_path, files):
    save_tokenizer(tmp_path, None)
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, dict):
            content = json.dumps(json.loads(path.read_text()) | content)
        path.write_text(content)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.chat.templates == as_dict(theirs(tmp_path).chat_template)
    assert tokenizer.chat.tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "again").mkdir()
    tokenizer.save(tmp_path / "again")
    assert as_dict(theirs(tmp_path / "again").chat_template) == tokenizer.chat.templates


def as_dict(template):
    return {"default": template} if isinstance(template, str) else template
