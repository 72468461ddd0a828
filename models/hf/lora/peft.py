"""Adapters as a folder that PEFT reads: `adapter_config.json` and `adapter_model.safetensors`.

PEFT keeps A as `[r, in]` and B as `[out, r]`, under the name of the module that it adapts. Where a
checkpoint holds several of our matrices in one tensor (query, key and value of GPT-2), their
adapters become one of the rank of all together:

    A = [A_q; A_k; A_v]        B = diag(B_q, B_k, B_v)

with as many times the alpha, so that alpha over rank stays.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seq1f1b_jax.config import UserError
from seq1f1b_jax.formats.write_safetensors import KINDS, new_folder, write_file
from seq1f1b_jax.models.decoder import Decoder
from seq1f1b_jax.models.hf.lora.weights import base_of
from seq1f1b_jax.models.hf.match import leaf_shapes, wanted
from seq1f1b_jax.models.hf.rules import Index, Piece, Rule, groups, letters
from seq1f1b_jax.models.hf.write_config import family_of
from seq1f1b_jax.models.lora import FIRST, SECOND
from seq1f1b_jax.pipeline.params.rows import opened
from seq1f1b_jax.pipeline.stage import Params, leaf_name

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Of every name: PEFT's model, and what it wraps."""


def write_adapter(
    params: Params,
    stage: Decoder,
    folder: str | Path,
    *,
    base: str | None,
    dtype: str = "float32",
    architecture: str | None = None,
) -> Path:
    """Write the adapters of a model; complete or not at all, as `export` does.

    Args:
      params: in the topology-free layout, `Rows` or arrays.
      stage: their model, with adapters.
      folder: must not exist.
      base: name or path of the checkpoint that they adapt, for PEFT to find it.
      dtype: `float32` or `bfloat16`.
      architecture: of that checkpoint, see `family_of`.

    Returns:
      The folder.

    Raises:
      UserError: the folder exists or cannot be written, transformers has no such architecture, or
        the model has no adapters.

    Example:
      >>> import pathlib, tempfile
      >>> import jax
      >>> from seq1f1b_jax.config import LoraConfig
      >>> from seq1f1b_jax.models import build_stage
      >>> stage = build_stage("llama", preset="tiny", lora=LoraConfig(rank=2))
      >>> folder = pathlib.Path(tempfile.mkdtemp(), "adapter")
      >>> _ = write_adapter(stage.init(jax.random.key(0)), stage, folder, base="their/model")
      >>> sorted(path.name for path in folder.iterdir())
      ['adapter_config.json', 'adapter_model.safetensors']
    """
    if not stage.lora.rank:
        raise UserError("the model has no adapters (lora.rank=0); export it without --adapter")
    tensors_of_base = list(wanted(base_of(stage), family_of(base_of(stage), architecture).rules))
    modules = list(_modules(stage, tensors_of_base))
    leaves = {leaf_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    tensors = {name: maker for module in modules for name, maker in module.tensors(leaves).items()}
    shapes = {name: shape for module in modules for name, shape in module.shapes().items()}
    with new_folder(Path(folder), dtype=dtype) as inner:
        write_file(inner / WEIGHTS, shapes, lambda name: tensors[name](), dtype=KINDS[dtype])
        targets = _targets(modules, [name for name, _, _ in tensors_of_base])
        text = json.dumps(_config(stage, modules, targets, base), indent=2) + "\n"
        (inner / CONFIG).write_text(text, encoding="utf-8")
    return Path(folder)


@dataclass(frozen=True)
class _Module:
    """A module of theirs in one layer, and our matrices in it.

    Attributes:
      name: path of the module.
      layer: its index.
      pieces: one for each of our matrices, in order; `None`: it has no adapter.
      widths: outputs of each.
      in_width: inputs.
      rank: of one adapter.
      is_transposed: whether its weight is `[in, out]`.
    """

    name: str
    layer: int
    pieces: tuple[str | None, ...]
    widths: tuple[int, ...]
    in_width: int
    rank: int
    is_transposed: bool

    @property
    def count(self) -> int:
        """Adapters in it."""
        return sum(piece is not None for piece in self.pieces)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of its two tensors, by name."""
        rank, names = self.count * self.rank, self._names()
        return {names[0]: (rank, self.in_width), names[1]: (sum(self.widths), rank)}

    def tensors(self, leaves: dict[str, Any]) -> dict[str, Any]:
        """What makes them, by name."""

        def read(piece: str, factor: str) -> np.ndarray:
            leaf = leaves[piece.removesuffix("kernel") + factor]
            return opened(leaf)(self.layer, self.layer + 1)[0]

        def first() -> np.ndarray:
            own = [read(piece, FIRST) for piece in self.pieces if piece is not None]
            return np.concatenate([a.reshape(-1, self.rank).T for a in own])

        def second() -> np.ndarray:
            whole = np.zeros((sum(self.widths), self.count * self.rank), np.float32)
            row = column = 0
            for piece, width in zip(self.pieces, self.widths, strict=True):
                if piece is not None:
                    block = whole[row : row + width, column : column + self.rank]
                    block[:] = read(piece, SECOND).T
                    column += self.rank
                row += width
            return whole

        return dict(zip(self._names(), (first, second), strict=True))

    def _names(self) -> tuple[str, str]:
        first, second = (f"{PREFIX}{self.name}.lora_{factor}.weight" for factor in "AB")
        return first, second


def _modules(stage: Decoder, tensors: Sequence[tuple[str, Rule, Index]]) -> Iterator[_Module]:
    """The modules with an adapter, layer by layer, from all tensors of the checkpoint."""
    sizes = letters(stage)
    known = {leaf_name(path) for path, _ in jax.tree.leaves_with_path(leaf_shapes(stage))}
    for name, rule, index in tensors:
        adapted = [piece.leaf.removesuffix("kernel") + FIRST in known for piece in rule.pieces]
        if not any(adapted):
            continue
        ways = [_ways(piece) for piece in rule.pieces]
        yield _Module(
            name=name.removesuffix(".weight"),
            layer=index[0],
            pieces=tuple(
                piece.leaf if has else None
                for piece, has in zip(rule.pieces, adapted, strict=True)
            ),
            widths=tuple(_width(out, sizes) for _, out, _ in ways),
            in_width=_width(ways[0][0], sizes),
            rank=stage.lora.rank,
            is_transposed=ways[0][2],
        )


def _ways(piece: Piece) -> tuple[str, str, bool]:
    """Letters of a matrix's inputs and outputs, and whether theirs is `[in, out]`.

    Ours takes all dims but the last. PEFT's two matrices are ours, transposed, where both count
    inputs and outputs in the same order.
    """
    *ins, out = groups(piece.ours)
    inside, theirs = "".join(ins), groups(piece.theirs)
    if theirs not in ([out, inside], [inside, out]):
        raise UserError(
            f"{piece.leaf} is kept in another order of its inputs and outputs there, which an "
            "adapter of PEFT cannot say; export the merged weights, without --adapter"
        )
    return inside, out, theirs == [inside, out]


def _width(group: str, sizes: dict[str, int]) -> int:
    return int(np.prod([sizes[letter] for letter in group]))


def _config(
    stage: Decoder, modules: Sequence[_Module], targets: Mapping[str, str], base: str | None
) -> dict[str, Any]:
    """What PEFT reads; whatever it has more is at its default."""
    rank, alpha = stage.lora.rank, stage.lora.alpha
    several = {targets[module.name]: module.count for module in modules if module.count > 1}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": _number(alpha),
        "lora_dropout": 0.0,
        "target_modules": sorted(set(targets.values())),
        "rank_pattern": {name: rank * count for name, count in several.items()},
        "alpha_pattern": {name: _number(alpha * count) for name, count in several.items()},
        "bias": "none",
        "fan_in_fan_out": any(module.is_transposed for module in modules),
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_to_transform": None,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
    }


def _targets(modules: Sequence[_Module], tensors: Sequence[str]) -> dict[str, str]:
    """By the path of a module what names it in every layer: `q_proj`, or `mlp.c_proj` of two."""
    pairs = {tuple(name.split(".")[-3:-1]) for name in tensors}
    alike = Counter(pair[-1] for pair in pairs)

    def target(path: list[str]) -> str:
        return path[-1] if alike[path[-1]] == 1 else ".".join(path[-2:])

    return {module.name: target(module.name.split(".")) for module in modules}


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value
