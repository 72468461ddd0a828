"""Chat templates in the files of a tokenizer, as transformers finds and writes them.

chat_template.jinja                      the default one
additional_chat_templates/NAME.jinja     further ones
tokenizer_config.json                    chat_template: one, or a list of {name, template};
read if there is no file of a template
chat_template.json                       chat_template: one; read if there is none of these
"""

from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data.tokenizer.base import TOKENIZER_CONFIG, Chat
from seq1f1b_jax.data.tokenizer.beside import named_tokens, read_object

DEFAULT = "default"
TEMPLATE, OLDER_TEMPLATE = "chat_template.jinja", "chat_template.json"
FURTHER = "additional_chat_templates"
ENTRY = "chat_template"
GGUF_TOKENS: Mapping[str, str] = {"bos_token": "bos_token_id", "eos_token": "eos_token_id"}
"""Names in templates, and in the metadata `tokenizer.ggml.*`."""


def find_chat(folder: Path) -> Chat:
    """The templates beside a tokenizer.json, and the special tokens that they may refer to.

    Raises:
      UserError: a file that is no template.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from seq1f1b_jax.data.tokenizer.chat.found import find_chat
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = Path(folder, "chat_template.jinja").write_text("{{ messages }}")
      ...     find_chat(Path(folder)).templates
      {'default': '{{ messages }}'}
    """
    templates = {path.stem: read_template(path) for path in _files(folder)}
    if (folder / TEMPLATE).is_file():
        templates[DEFAULT] = read_template(folder / TEMPLATE)
    for name in (TOKENIZER_CONFIG, OLDER_TEMPLATE):
        templates = templates or _listed(read_object(folder / name).get(ENTRY), folder / name)
    return Chat(templates, named_tokens(folder))


def gguf_chat(metadata: Mapping[str, Any], tokens: Mapping[str, str]) -> Chat:
    """The templates of a GGUF: `tokenizer.chat_template`, and further ones with `.NAME` appended.

    Args:
      metadata: all entries of the file.
      tokens: special tokens by name.
    """
    start = f"tokenizer.{ENTRY}"
    templates = {
        name.removeprefix(start).removeprefix(".") or DEFAULT: text
        for name, text in metadata.items()
        if (name == start or name.startswith(start + ".")) and isinstance(text, str)
    }
    return Chat(templates, tokens)


def write_chat(chat: Chat, config: dict[str, Any], *, names: Container[str]) -> None:
    """Put templates, and the tokens among `names`, into the contents of a tokenizer_config.json."""
    if not chat.templates:
        return
    config.update({name: token for name, token in chat.tokens.items() if token in names})
    if set(chat.templates) == {DEFAULT}:
        config[ENTRY] = chat.templates[DEFAULT]
    else:
        listed = chat.templates.items()
        config[ENTRY] = [{"name": name, "template": text} for name, text in listed]


def read_template(path: Path) -> str:
    """The text of a template.

    Raises:
      UserError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}); give a chat template") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (offset {error.start}), so no template") from error


def _files(folder: Path) -> list[Path]:
    return sorted((folder / FURTHER).glob("*.jinja"))


def _listed(entry: Any, where: Path) -> dict[str, str]:
    """One template, or several by name."""
    if entry is None:
        return {}
    if isinstance(entry, str):
        return {DEFAULT: entry}
    if isinstance(entry, list) and all(isinstance(item, dict) for item in entry):
        found = {item.get("name"): item.get("template") for item in entry}
        if all(isinstance(part, str) for pair in found.items() for part in pair):
            return found
    raise UserError(
        f"{where}: {ENTRY} is neither text nor a list of {{name, template}}; correct or remove it"
    )
