"""Chat templates in the style of well-known models, and a small tokenizer with their tokens."""

import json
from pathlib import Path

import tokenizers

from seq1f1b_jax.data.tokenizer.train import train_on_texts
from tests.data.test_tokenizer import TEXT

SPECIALS = (
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]",
)
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}" + ALTERNATE +
    "{% if message['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}" + ALTERNATE +
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
MARKED = """{% for message in messages %}
    {% if message['role'] == 'assistant' %}
{{ '<|im_start|>assistant\n' }}
        {%- generation %}
{{ message['content'] + '<|im_end|>' }}
        {%- endgeneration %}
{{ '\n' }}
    {%- else %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
    {%- endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
# leaves out the reasoning of every turn but the last, as templates of reasoning models do
FORGETFUL = (
    "{% for message in messages %}"
    "{% set content = message['content'] if loop.last else message['content'].split('/')[-1] %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def turns(*texts, system=None):
    """A conversation in which the user begins and turns alternate."""
    first = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return first + [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]


def conversations(count):
    """Made up, of one to four turns of each, every one different."""
    words = TEXT.split()

    def says(n, turn):
        first, count = 7 * n + 3 * turn, 2 + (n + turn) % 9
        return " ".join(words[i % len(words)] for i in range(first, first + count))

    return [turns(*(says(n, turn) for turn in range(2 * (1 + n % 4)))) for n in range(count)]


def save_tokenizer(folder: Path, template=CHATML, *, bos_first=False, **config):
    """A byte-level BPE with the special tokens of all templates, in files as models have them."""
    inner = train_on_texts([TEXT], 300)._inner
    inner.add_special_tokens([tokenizers.AddedToken(name, special=True) for name in SPECIALS])
    if bos_first:
        inner.post_processor = tokenizers.processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))]
        )
    folder.mkdir(parents=True, exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    entries = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        **({} if template is None else {"chat_template": template}), **config,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(entries))
    return folder


def write_chats(path: Path, chats, key="messages"):
    """JSON lines with a conversation each."""
    path.write_text("".join(json.dumps({key: chat}) + "\n" for chat in chats))
    return path
