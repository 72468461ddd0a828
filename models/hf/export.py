"""Parameters written as a checkpoint that `transformers` loads."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import jax
import numpy as np

from models.decoder import Decoder
from models.hf.match import leaf_name, leaf_shapes, wanted
from models.hf.write_config import export_table, hf_config
from seq1f1b_jax.config import UserError
from seq1f1b_jax.formats.write_safetensors import write_checkpoint
from seq1f1b_jax.pipeline.stage import Params

DTYPES: Mapping[str, str] = MappingProxyType({"float32": "F32", "bfloat16": "BF16"})
BESIDE_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def export(
    params: Params,
    stage: Decoder,
    folder: str | Path,
    *,
    dtype: str = "float32",
    tokenizer_file: str | Path | None = None,
    context_length: int | None = None,
    special_tokens: Mapping[str, int | list[int]] | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> Path:
    """Write a folder with config.json, generation_config.json, safetensors and the tokenizer.

    Everything is written beside the folder first and renamed at the end, so that a folder of this
    name is always whole.

    Args:
      params: in the layout that is free of topology (`from_pipeline`), of any float type.
      stage: the model that they are of.
      folder: must not exist.
      dtype: `float32` or `bfloat16`, of all tensors.
      tokenizer_file: a tokenizer.json to copy, with the files of the tokenizer that lie beside it.
      context_length: tokens of the longest sequence that the model was trained on, for the config.
      special_tokens: ids by name (`bos`, `eos`, `pad`), for the config.
      max_shard_bytes: tensors of one file; more make several files with an index.

    Returns:
      The folder.

    Raises:
      UserError: the folder exists or cannot be written, or transformers has no such architecture.
      ValueError: the parameters are not those of the model.
    """
    folder = Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists; nothing is overwritten: give the name of a new folder")
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r} for an export; use one of {', '.join(DTYPES)}")
    _check_tokenizer(tokenizer_file)
    _check_shapes(params, stage)
    special_tokens = dict(special_tokens or {})
    config = hf_config(
        stage, dtype=dtype, context_length=context_length, special_tokens=special_tokens
    )
    try:
        with _renamed_when_whole(folder) as inner:
            _write_tensors(inner, params, stage, dtype=dtype, max_shard_bytes=max_shard_bytes)
            _write_json(inner / "config.json", config)
            if special_tokens:
                ids = {f"{name}_token_id": value for name, value in special_tokens.items()}
                _write_json(inner / "generation_config.json", {"_from_model_config": True, **ids})
            _copy_tokenizer(tokenizer_file, inner)
    except OSError as error:
        raise UserError(
            f"cannot write {folder} ({error.strerror or error}); nothing of it is kept: free "
            "space, or give the name of a folder that this user may write"
        ) from error
    return folder


@contextmanager
def _renamed_when_whole(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that gets its name at the end, or is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        inner = Path(temporary) / folder.name
        inner.mkdir()
        yield inner
        os.rename(inner, folder)


def _write_tensors(folder: Path, params: Params, stage: Decoder, *, dtype, max_shard_bytes) -> None:
    leaves = {leaf_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    tensors = {name: (rule, layer) for name, rule, layer in wanted(stage, export_table(stage))}

    def get(name):
        rule, layer = tensors[name]
        per_layer = "{}" in rule.name
        parts = [leaves[leaf][layer] if per_layer else leaves[leaf] for leaf in rule.leaves]
        return rule.to_theirs([np.asarray(part) for part in parts], stage=stage)

    shapes = {name: rule.shape(stage) for name, (rule, _) in tensors.items()}
    write_checkpoint(folder, shapes, get, dtype=DTYPES[dtype], max_shard_bytes=max_shard_bytes)


def _check_shapes(params: Params, stage: Decoder) -> None:
    given, wanted_shapes = (
        {leaf_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (params, leaf_shapes(stage))
    )
    names = [n for n in given | wanted_shapes if given.get(n) != wanted_shapes.get(n)]
    if names:
        raise ValueError(
            f"{len(names)} parameters are not those of the model: {names[0]} is "
            f"{given.get(names[0])}, not {wanted_shapes.get(names[0])}; give them in the layout "
            "that is free of topology (from_pipeline)"
        )


def _write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _check_tokenizer(file: str | Path | None) -> None:
    if file is not None and not (Path(file).is_file() and Path(file).suffix == ".json"):
        raise UserError(
            f"tokenizer_file={str(file)!r} is not a tokenizer.json; save the tokenizer as one first"
        )


def _copy_tokenizer(file: str | Path | None, folder: Path) -> None:
    if file is None:
        return
    shutil.copyfile(file, folder / "tokenizer.json")
    for name in BESIDE_TOKENIZER:
        if (Path(file).parent / name).is_file():
            shutil.copyfile(Path(file).parent / name, folder / name)
    if not (folder / "tokenizer_config.json").exists():
        # Without this file transformers guesses a class from the architecture, and rebuilds the
        # tokenizer in the image of that class.
        _write_json(
            folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}
        )
