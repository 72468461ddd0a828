"""The files beside a checkpoint's weights, kept by a run for its export.

    the tokenizer's files    tokenizer.json and its companions, chat templates, files of older or
                             slower tokenizers
    generation_config.json   sampling settings, all end-of-text ids
    licences                 they bind derived weights too

Left out: weights and their index, config.json (written anew), code, the model card (its figures
describe other weights).
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from seq1f1b_jax.formats.gguf import GgufFile
from seq1f1b_jax.formats.safetensors import parse_json
from seq1f1b_jax.models.hf.source import Source

GENERATION = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.*.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "vocab.json", "merges.txt",
    "vocab.txt", "tokenizer.model*", "*.tiktoken", "tekken.json",
)
TEMPLATES = "additional_chat_templates"
LICENCES = ("licen[cs]e*", "notice*", "use_policy*", "copying*")
ABOUT = "about.json"
"""In a kept folder: the fields that no file holds."""


@dataclass(frozen=True)
class Origin:
    """What is exported with weights that were made from a checkpoint's.

    Attributes:
      files: path in the checkpoint's folder -> the file, or its text.
      special_tokens: ids by name (`bos`, `eos`, `pad`).
      context_length: tokens of the longest sequence that it was trained for.
      has_tokenizer: whether there is one that `load_tokenizer` reads; the run then uses it.
      tokenizer_class: as named in config.json, if it is.
      architecture: of the checkpoint, as transformers names it.
    """

    files: Mapping[str, Path | str]
    special_tokens: Mapping[str, int | list[int]]
    context_length: int | None
    has_tokenizer: bool
    tokenizer_class: str | None = None
    architecture: str | None = None

    def without_tokenizer(self) -> "Origin":
        """The same for a model with another tokenizer: only the licences."""
        files = {name: file for name, file in self.files.items() if _is_licence(name)}
        return replace(
            self, files=files, special_tokens={}, has_tokenizer=False, tokenizer_class=None
        )


def origin_of(source: Source) -> Origin:
    """The origin of a checkpoint; its files are listed and not yet read.

    Example:
      >>> import json, pathlib, tempfile
      >>> from seq1f1b_jax.models import build_stage
      >>> from seq1f1b_jax.models.hf import export, origin_of, read_source
      >>> import jax
      >>> stage = build_stage("llama", preset="tiny", vocab_size=8)
      >>> folder = pathlib.Path(tempfile.mkdtemp(), "model")
      >>> _ = export(stage.init(jax.random.key(0)), stage, folder, special_tokens={"eos": [2, 7]})
      >>> _ = (folder / "chat_template.jinja").write_text("{{ messages }}")
      >>> origin = origin_of(read_source(folder))
      >>> sorted(origin.files), origin.special_tokens
      (['chat_template.jinja', 'generation_config.json'], {'eos': [2, 7]})
    """
    if isinstance(source.tensors, GgufFile):
        files = _templates(source.tensors)
    else:
        files = find_files(source.path)
    return Origin(
        files=files,
        special_tokens=source.special_tokens,
        context_length=source.context_length,
        has_tokenizer=source.tokenizer_file is not None,
        tokenizer_class=source.description.tokenizer_class,
        architecture=source.description.architecture,
    )


def keep_origin(origin: Origin, folder: Path) -> None:
    """Copy it into a folder, which must not exist."""
    folder.mkdir(parents=True)
    write_files(origin.files, folder)
    about = {
        name: getattr(origin, name)
        for name in (
            "special_tokens", "context_length", "has_tokenizer", "tokenizer_class", "architecture",
        )
    }
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def kept_origin(folder: Path) -> Origin | None:
    """What `keep_origin` wrote there; None where it did not.

    Raises:
      UserError: the folder is damaged.
    """
    path = folder / ABOUT
    if not path.is_file():
        return None
    about = parse_json(path.read_bytes(), what=str(path))
    return Origin(find_files(folder), **about)


def is_kept(folder: Path) -> bool:
    """Whether `keep_origin` wrote the folder."""
    path = folder / ABOUT
    return path.is_file() and b'"has_tokenizer"' in path.read_bytes()


def write_files(files: Mapping[str, Path | str], folder: Path) -> None:
    """Copy or write files under a folder, by path in it."""
    for name, file in files.items():
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        if isinstance(file, Path):
            shutil.copyfile(file, target)
        else:
            target.write_text(file, encoding="utf-8")


def find_files(folder: Path, *, only_tokenizer: bool = False) -> dict[str, Path]:
    """Files of a folder that accompany its weights, by their path in it."""

    def goes(name: str) -> bool:
        return _is_tokenizers(name) or (
            not only_tokenizer and (name == GENERATION or _is_licence(name))
        )

    files = [path for path in sorted(folder.iterdir()) if path.is_file() and goes(path.name)]
    templates = sorted((folder / TEMPLATES).glob("*.jinja"))
    return {path.relative_to(folder).as_posix(): path for path in (*files, *templates)}


def _is_tokenizers(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in TOKENIZER_FILES)


def _is_licence(name: str) -> bool:
    return any(fnmatch(name.lower(), pattern) for pattern in LICENCES)


def _templates(file: GgufFile) -> dict[str, str]:
    """Chat templates of a GGUF as files: the main one, and further ones by name."""
    start = "tokenizer.chat_template"
    found: dict[str, Any] = {
        name.removeprefix(start).removeprefix("."): value
        for name, value in file.metadata.items()
        if name == start or name.startswith(start + ".")
    }
    return {
        f"{TEMPLATES}/{name}.jinja" if name else "chat_template.jinja": text
        for name, text in found.items()
        if isinstance(text, str) and (not name or name.replace("_", "").isalnum())
    }
