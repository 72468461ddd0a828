"""Parameters written as a checkpoint that `transformers` loads."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from seq1f1b_jax.formats.write_safetensors import (
    KINDS,
    check_new,
    new_folder,
    write_checkpoint,
)
from seq1f1b_jax.models.decoder import Decoder
from seq1f1b_jax.models.hf.export_tokenizer import complete, files_beside, fitting_stage
from seq1f1b_jax.models.hf.lora.weights import base_of, merge
from seq1f1b_jax.models.hf.match import leaf_shapes, wanted
from seq1f1b_jax.models.hf.origin import GENERATION, Origin, write_files
from seq1f1b_jax.models.hf.rules import Rule
from seq1f1b_jax.models.hf.write_config import family_of, hf_config
from seq1f1b_jax.pipeline.params.rows import opened
from seq1f1b_jax.pipeline.stage import Params, leaf_name

ZEROS = "layers.attention.output.bias"
"""The leaf that a Qwen2 lacks; it is zero where one is written as a Llama."""


def export(
    params: Params,
    stage: Decoder,
    folder: str | Path,
    *,
    dtype: str = "float32",
    tokenizer_file: str | Path | None = None,
    origin: Origin | None = None,
    context_length: int | None = None,
    special_tokens: Mapping[str, int | list[int]] | None = None,
    eos: int | list[int] | None = None,
    max_shard_bytes: int = 5 * 10**9,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write a folder with config.json, generation_config.json, safetensors and the tokenizer.

    Adapters are merged into the weights. The files beside the weights that these were made from are
    copied unchanged: the tokenizer's, chat templates, generation_config.json, licences.

    Everything is written to a temporary folder that is renamed at the end, so that a folder of this
    name is always complete.

    Args:
      params: in the topology-free layout (`from_pipeline`), of any float type; arrays, or `Rows`,
        which are read one tensor at a time.
      stage: their model.
      folder: must not exist.
      dtype: `float32` or `bfloat16`, of all tensors.
      tokenizer_file: the model's tokenizer.json, with the files that belong to it beside it; the
        origin's own files for the same tokenizer win.
      origin: from `origin_of` or `kept_origin`, the files beside the weights that these parameters
        were made from. If its tokenizer is another one, only its licences are copied.
      context_length: tokens of the longest sequence that the model was trained on; None: the
        origin's.
      special_tokens: ids by name (`bos`, `eos`, `pad`), for the config; None: the origin's.
      eos: the end-of-text id, or several, if neither of these has one.
      max_shard_bytes: size of one file's tensors; more are sharded, with an index.
      say: called with lines for the user.

    Returns:
      The folder.

    Raises:
      UserError: the folder exists or cannot be written, or transformers has no such architecture.
      ValueError: the parameters do not fit the model.

    Example:
      >>> import pathlib, tempfile
      >>> import jax
      >>> from seq1f1b_jax.models import build_stage
      >>> from seq1f1b_jax.models.hf import export
      >>> stage = build_stage("llama", preset="tiny", vocab_size=8)
      >>> folder = pathlib.Path(tempfile.mkdtemp(), "model")
      >>> _ = export(stage.init(jax.random.key(0)), stage, folder, dtype="bfloat16")
      >>> sorted(path.name for path in folder.iterdir())
      ['config.json', 'model.safetensors']
    """
    check_new(folder := Path(folder), dtype)
    _check_shapes(params, stage)
    params, stage = merge(params, stage), base_of(stage)
    if origin is None:
        origin = Origin({}, {}, None, False)
    elif tokenizer_file is not None and not origin.has_tokenizer:
        origin = origin.without_tokenizer()
    files = files_beside(tokenizer_file, origin)
    stage = fitting_stage(stage, files, origin, say)
    special_tokens = dict(origin.special_tokens if special_tokens is None else special_tokens)
    if eos is not None:
        special_tokens.setdefault("eos", eos)
    context_length = context_length or origin.context_length
    config = hf_config(
        stage, dtype=dtype, context_length=context_length,
        special_tokens=_with_rows(special_tokens, stage.vocab_size),
        architecture=origin.architecture,
    )
    if origin.tokenizer_class is not None:
        config["tokenizer_class"] = origin.tokenizer_class
    files = complete(files, origin, special_tokens, context_length)
    if special_tokens and GENERATION not in files:
        files[GENERATION] = _json({
            "_from_model_config": True,
            **{f"{name}_token_id": value for name, value in special_tokens.items()},
        })
    with new_folder(folder, dtype=dtype) as inner:
        rules = family_of(stage, origin.architecture).rules
        _write_tensors(inner, params, stage, rules, dtype=dtype, max_shard_bytes=max_shard_bytes)
        write_files({**files, "config.json": _json(config)}, inner)
    return folder


def _write_tensors(
    folder: Path, params: Params, stage: Decoder, rules: Sequence[Rule], *, dtype, max_shard_bytes
) -> None:
    leaves = {leaf_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    leaves.setdefault(ZEROS, np.zeros((stage.num_layers, stage.model_dim), np.float32))
    tensors = {name: (rule, index) for name, rule, index in wanted(stage, rules)}

    readers = {}

    def part(leaf, index):
        if not index:
            return np.asarray(leaves[leaf])
        layer, *expert = index
        reader = readers[leaf] = readers.get(leaf) or opened(leaves[leaf])
        return reader(layer, layer + 1)[(0, *expert)]

    def get(name):
        rule, index = tensors[name]
        return rule.to_theirs([part(leaf, index) for leaf in rule.leaves], stage=stage)

    shapes = {name: rule.shape(stage) for name, (rule, _) in tensors.items()}
    write_checkpoint(folder, shapes, get, dtype=KINDS[dtype], max_shard_bytes=max_shard_bytes)


def _with_rows(
    special_tokens: Mapping[str, int | list[int]], vocab_size: int
) -> dict[str, int | list[int]]:
    # transformers builds no model whose ids exceed the table, such as a pad that is never embedded.
    return {
        name: value for name, value in special_tokens.items()
        if all(0 <= token < vocab_size for token in (value if isinstance(value, list) else [value]))
    }


def _check_shapes(params: Params, stage: Decoder) -> None:
    given, wanted_shapes = (
        {leaf_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (params, leaf_shapes(stage))
    )
    names = [n for n in given | wanted_shapes if given.get(n) != wanted_shapes.get(n)]
    if names:
        raise ValueError(
            f"{len(names)} parameters are not those of the model: {names[0]} is "
            f"{given.get(names[0])}, not {wanted_shapes.get(names[0])}; give them in the "
            "topology-free layout (from_pipeline)"
        )


def _json(value) -> str:
    return json.dumps(value, indent=2) + "\n"
