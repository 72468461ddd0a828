"""The tokenizer files of an export, such that others tokenize texts as the model was trained."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from seq1f1b_jax.config import UserError
from seq1f1b_jax.formats.safetensors import parse_json
from seq1f1b_jax.models.decoder import Decoder
from seq1f1b_jax.models.hf.origin import Origin, find_files
from seq1f1b_jax.models.hf.qwen2_tokenizer import is_rebuilt_alike
from seq1f1b_jax.models.llama import Llama

Files = dict[str, Path | str]
JSON, CONFIG = "tokenizer.json", "tokenizer_config.json"
TEMPLATE, OF_CONFIG = "chat_template.jinja", "chat_template"
CLASS = "PreTrainedTokenizerFast"
"""Loaded unchanged by transformers 4 and 5; 5 also calls it TokenizersBackend."""


def files_beside(tokenizer_file: str | Path | None, origin: Origin) -> Files:
    """Files to write beside the weights, by name: the given tokenizer's, then the origin's.

    The given tokenizer's chat template wins: it is the one that the model was trained with.

    Raises:
      UserError: it is no tokenizer.json.
    """
    files: Files = dict(origin.files)
    if tokenizer_file is None:
        return files
    path = Path(tokenizer_file)
    if not (path.is_file() and path.suffix == ".json"):
        raise UserError(
            f"tokenizer_file={str(tokenizer_file)!r} is not a tokenizer.json; save the tokenizer "
            "as one first"
        )
    own: Files = {**find_files(path.parent, only_tokenizer=True), JSON: path}
    if JSON not in files:  # else the same tokenizer, with all its files
        files = {**own, **files}
    template = _chat_template(own)
    if template is not None and template != _chat_template(files):
        files[TEMPLATE] = template
    return files


def fitting_stage(
    stage: Decoder, files: Files, origin: Origin, say: Callable[[str], None]
) -> Decoder:
    """The model as an architecture with which transformers loads its tokenizer unchanged.

    Raises:
      UserError: there is none.
    """
    qwen2 = isinstance(stage, Llama) and stage.qkv_bias and not stage.output_bias
    if not qwen2 or JSON not in files or JSON in origin.files:
        return stage
    if is_rebuilt_alike(_read(files[JSON])):
        return stage
    if stage.window is not None:
        raise UserError(
            f"qkv_bias=True and window={stage.window} are a Qwen2 in transformers, which gives any "
            "tokenizer beside it Qwen2's pattern, and this one has another; write the weights "
            "alone with models.hf.export without tokenizer_file, or train without one of the two"
        )
    say(
        "written as a Llama with biases of zero on attention's output, which computes the same: "
        "beside a Qwen2, transformers 5 gives any tokenizer Qwen2's pattern"
    )
    return replace(stage, output_bias=True)


def complete(
    files: Files,
    origin: Origin,
    special_tokens: Mapping[str, int | list[int]],
    context_length: int | None,
) -> Files:
    """The files with a tokenizer_config.json that names the class, special tokens and the length.

    The origin's is kept; only a length that the model has outgrown is raised.
    """
    if JSON not in files:
        return files
    config = _read(files[CONFIG]) if CONFIG in files else {}
    before = dict(config)
    length = {} if context_length is None else {"model_max_length": context_length}
    if CONFIG in origin.files:
        outgrown = (context_length or 0) > (origin.context_length or context_length or 0)
        limit = config.get("model_max_length")
        if outgrown and isinstance(limit, int | float) and limit < (context_length or 0):
            config |= length
    else:
        # Without a class transformers guesses one from the architecture and rebuilds the tokenizer
        # as that.
        config = {"tokenizer_class": CLASS, **length, **config}
        for name, content in _names(_read(files[JSON]), special_tokens).items():
            config.setdefault(name, content)
    if config == before:
        return files
    return {**files, CONFIG: json.dumps(config, indent=2, ensure_ascii=False) + "\n"}


def _names(
    tokenizer: Mapping[str, Any], special_tokens: Mapping[str, int | list[int]]
) -> dict[str, str]:
    """Special tokens by name, of added tokens only: a name would make an ordinary token special."""
    contents = {entry["id"]: entry["content"] for entry in tokenizer.get("added_tokens") or ()}
    first = {name: i[0] if isinstance(i, list) else i for name, i in special_tokens.items()}
    return {f"{name}_token": contents[i] for name, i in first.items() if i in contents}


def _chat_template(files: Files) -> str | None:
    """The default one, if there is any: of a file, or else of tokenizer_config.json."""
    if TEMPLATE in files:
        file = files[TEMPLATE]
        return file.read_text(encoding="utf-8") if isinstance(file, Path) else file
    entry = _read(files[CONFIG]).get(OF_CONFIG) if CONFIG in files else None
    if isinstance(entry, list):
        named = [item for item in entry if isinstance(item, dict) and item.get("name") == "default"]
        entry = named[0].get("template") if named else None
    return entry if isinstance(entry, str) else None


def _read(file: Path | str) -> dict[str, Any]:
    if isinstance(file, Path):
        return parse_json(file.read_bytes(), what=str(file))
    return json.loads(file)
