"""The project's llama parameters under the names and in the layout of `torch_pipeline.Part`."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seq1f1b_jax.models.llama import Llama
from seq1f1b_jax.pipeline.stage import Params

KERNELS = {
    "query": ("attention", "query"), "key": ("attention", "key"), "value": ("attention", "value"),
    "output": ("attention", "output"), "gate": ("mlp", "gate"), "up": ("mlp", "up"),
    "down": ("mlp", "down"),
}
SIZES = (
    "num_layers", "model_dim", "num_heads", "head_dim", "mlp_dim", "vocab_size", "norm_eps",
    "rope_theta",
)  # fmt: skip


def to_torch(params: Params) -> dict[str, np.ndarray]:
    """Arrays by torch's names: a kernel `[in, out]` becomes `[out, in]`, heads are joined.

    Args:
      params: of an untied llama without biases, or their gradients.
    """
    model_dim = params.embedding.shape[1]
    found = {
        "embedding.weight": params.embedding, "head.weight": params.head,
        "last.weight": params.last["scale"],
    }
    for number in range(jax.tree.leaves(params.layers)[0].shape[0]):
        layer = jax.tree.map(lambda leaf, number=number: np.asarray(leaf[number]), params.layers)
        for name, (block, projection) in KERNELS.items():
            kernel = layer[block][projection]["kernel"]
            kernel = kernel.reshape(-1, model_dim) if name == "output" else kernel
            found[f"layers.{number}.{name}.weight"] = kernel.T
        for name in ("attention_norm", "mlp_norm"):
            found[f"layers.{number}.{name}.weight"] = layer[name]["scale"]
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


def write(path: Path, params: Params, batch: tuple[Any, Any]) -> None:
    """Write weights and batch for torch's processes."""
    tokens, targets = (np.asarray(array) for array in batch)
    np.savez(path, **to_torch(params), tokens=tokens, targets=targets)


def sizes_of(stage: Llama) -> dict[str, Any]:
    """Keyword arguments of `torch_pipeline.Sizes`."""
    assert {field.name for field in fields(stage)} >= set(SIZES)
    return {name: getattr(stage, name) for name in SIZES}
