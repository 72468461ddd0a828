"""The weights of a model with adapters: from a checkpoint that has none, and back to one."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from seq1f1b_jax.models.decoder import Decoder
from seq1f1b_jax.models.hf.load import load_rows
from seq1f1b_jax.models.hf.source import Source
from seq1f1b_jax.models.lora import FIRST, NO_ADAPTERS, SECOND
from seq1f1b_jax.pipeline.params.fresh import fresh
from seq1f1b_jax.pipeline.params.rows import Reader, Rows, opened
from seq1f1b_jax.pipeline.stage import Params, Tree, leaf_name


def base_of(stage: Decoder) -> Decoder:
    """The model without its adapters."""
    return replace(stage, lora=NO_ADAPTERS)


def source_rows(source: Source, stage: Decoder, key: PRNGKeyArray) -> Params:
    """A checkpoint's weights (`load_rows`), and fresh adapters where the model has some.

    Args:
      source: from `read_source`.
      stage: the model.
      key: what adapters are drawn from, as `stage.init` draws them.

    Raises:
      UserError: checkpoint and model differ; the message lists all differences.
    """
    base = load_rows(source, base_of(stage))
    if not stage.lora.rank:
        return base
    loaded = {leaf_name(path): leaf for path, leaf in jax.tree.leaves_with_path(base)}
    return jax.tree.map_with_path(
        lambda path, made: loaded.get(leaf_name(path), made), fresh(stage, key)
    )


def merge(params: Params, stage: Decoder) -> Params:
    """Parameters of `base_of(stage)` that compute the same: W + scale * A B in the place of W.

    Args:
      params: in the topology-free layout, `Rows` or arrays.
      stage: their model.

    Returns:
      The same leaves, and `Rows` in the places of matrices with an adapter, which are made when
      they are read; in the dtype of the matrix.

    Example:
      >>> import jax
      >>> from seq1f1b_jax.config import LoraConfig
      >>> from seq1f1b_jax.models import build_stage
      >>> stage = build_stage("llama", preset="tiny", lora=LoraConfig(rank=2))
      >>> merged = merge(stage.init(jax.random.key(0)), stage)
      >>> {name: leaf.shape for name, leaf in merged.layers["attention"]["query"].items()}
      {'kernel': (2, 32, 32)}
    """
    if not stage.lora.rank:
        return params

    def without(tree: Tree) -> Tree:
        if not isinstance(tree, dict):
            return tree
        if FIRST not in tree:
            return {name: without(part) for name, part in tree.items()}
        others = {name: leaf for name, leaf in tree.items() if name not in (FIRST, SECOND)}
        kernel = _merged(tree["kernel"], tree[FIRST], tree[SECOND], stage.lora.scale)
        return {**others, "kernel": kernel}

    return params._replace(layers=without(params.layers))


def _merged(kernel: Any, first: Any, second: Any, scale: float) -> Rows:
    def open() -> Reader:
        read, read_first, read_second = (opened(leaf) for leaf in (kernel, first, second))

        def rows(start: int, stop: int) -> np.ndarray:
            product = np.einsum("l...r,lro->l...o", read_first(start, stop),
                read_second(start, stop))  # fmt: skip
            return read(start, stop) + np.asarray(scale, product.dtype) * product

        return rows

    return Rows(tuple(kernel.shape), np.dtype(kernel.dtype), open)
