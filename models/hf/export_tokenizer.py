"""Which files of a tokenizer go with an export, so that others cut texts as the model saw them."""

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
CLASS = "PreTrainedTokenizerFast"
"""What transformers 4 and 5 load as it stands; 5 knows it as its TokenizersBackend too."""


def files_beside(tokenizer_file: str | Path | None, origin: Origin) -> Files:
    """What goes beside the weights, by name: of the tokenizer that is given, then of the origin.

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
    if JSON in files:  # the same tokenizer as it lay there, with all that belongs to it
        return files
    return {**find_files(path.parent, only_tokenizer=True), JSON: path, **files}


def fitting_stage(
    stage: Decoder, files: Files, origin: Origin, say: Callable[[str], None]
) -> Decoder:
    """The model as an architecture beside which others load its tokenizer as it is.

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
    """The same with a tokenizer_config.json that names the class, special tokens and the length.

    That of the origin says what it says; only a length that the model has outgrown is raised.
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
        # Without a class transformers guesses one from the architecture, and rebuilds the
        # tokenizer in its image.
        config = {"tokenizer_class": CLASS, **length, **config}
        for name, content in _names(_read(files[JSON]), special_tokens).items():
            config.setdefault(name, content)
    if config == before:
        return files
    return {**files, CONFIG: json.dumps(config, indent=2, ensure_ascii=False) + "\n"}


def _names(
    tokenizer: Mapping[str, Any], special_tokens: Mapping[str, int | list[int]]
) -> dict[str, str]:
    """Special tokens by name; a piece of ordinary text would become special by having one."""
    contents = {entry["id"]: entry["content"] for entry in tokenizer.get("added_tokens") or ()}
    first = {name: i[0] if isinstance(i, list) else i for name, i in special_tokens.items()}
    return {f"{name}_token": contents[i] for name, i in first.items() if i in contents}


def _read(file: Path | str) -> dict[str, Any]:
    if isinstance(file, Path):
        return parse_json(file.read_bytes(), what=str(file))
    return json.loads(file)
