"""Which leaves train: those that are named, and low-rank adapters beside frozen weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Projection = Literal["query", "key", "value", "output", "gate", "up", "down"]
ADAPTER_LEAVES = ("lora_a", "lora_b")
"""Names of A and B beside the matrix that they adapt."""
ADAPTERS = "layers.*.lora_[ab]"
"""The pattern that fits them."""


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters: a frozen projection W of the layers computes `x W + alpha/rank x A B`.

    Attributes:
      rank: columns of A and rows of B; 0: there are no adapters. With adapters only they train,
        and what train.trainable names.
      alpha: over rank, the factor of what an adapter adds.
      projections: which have an adapter: `query`, `key`, `value` and `output` of attention, `gate`
        (llama), `up` and `down` of the MLP.
    """

    rank: int = 0
    alpha: float = 16.0
    projections: tuple[Projection, ...] = ("query", "key", "value", "output")

    @property
    def scale(self) -> float:
        """Of what an adapter adds."""
        return self.alpha / self.rank

    @property
    def num_adapters(self) -> int:
        """Of a layer."""
        return len(self.projections) if self.rank else 0

    def adapts(self, path: str) -> bool:
        """Whether a projection has an adapter, by its path in a layer: `mlp.up`."""
        return bool(self.rank) and path.rpartition(".")[2] in self.projections


def adapter_shapes(
    lora: LoraConfig, path: str, dims: tuple[int, ...], sharded: int | None
) -> dict[str, tuple[tuple[int, ...], int | None]]:
    """Dims and sharded dim of A and B beside a matrix, by their paths; empty: it has no adapter.

    Args:
      lora: the adapters.
      path: of the projection in a layer.
      dims: of its matrix on one device, the last one its outputs.
      sharded: which of them is sharded over the mesh axis `tensor`.

    Example:
      >>> adapter_shapes(LoraConfig(2, projections=("up",)), "mlp.up", (16, 24), 1)
      {'mlp.up.lora_a': ((16, 2), None), 'mlp.up.lora_b': ((2, 24), 1)}
    """
    if not lora.adapts(path):
        return {}
    *ins, out = dims
    by_columns = sharded == len(ins)
    return {
        f"{path}.lora_a": ((*ins, lora.rank), None if by_columns else sharded),
        f"{path}.lora_b": ((lora.rank, out), 1 if by_columns else None),
    }


def trainable_patterns(
    lora: LoraConfig, trainable: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    """Patterns of all leaves that train; None: all leaves do.

    Example:
      >>> trainable_patterns(LoraConfig(rank=8), ("last.*",))
      ('layers.*.lora_[ab]', 'last.*')
    """
    return (ADAPTERS, *(trainable or ())) if lora.rank else trainable


def lora_problems(
    lora: LoraConfig, trainable: tuple[str, ...] | None, *, stage: str | None, family: str
) -> Iterator[str]:
    """What is wrong with what trains, one line each.

    Args:
      lora: the adapters.
      trainable: `train.trainable`.
      stage: a custom model, if it is one.
      family: of the model.

    Example:
      >>> list(lora_problems(LoraConfig(rank=8), None, stage=None, family="llama"))
      []
    """
    if trainable is not None and not trainable:
        yield (
            "train.trainable=[] names nothing that trains; name some leaves, or leave it out: then "
            "all of them train"
        )
    if not lora.rank:
        for name, usual in vars(LoraConfig()).items():
            given = getattr(lora, name)
            if given != usual:
                shown = list(given) if isinstance(given, tuple) else given
                yield (
                    f"lora.{name}={shown} has no effect without adapters; set --lora.rank too, "
                    "such as 8, or leave it out"
                )
        return
    if stage is not None:
        yield (
            f"lora.rank={lora.rank} is for the built-in families, and model.stage={stage} is a "
            "custom class, whose projections only it knows; give it adapters of its own, and name "
            "them in train.trainable"
        )
    if not lora.projections:
        yield (
            f"lora.projections=[] leaves no projection that lora.rank={lora.rank} adapts; name "
            "some, such as [query,value], or use --lora.rank 0"
        )
    twice = [name for name in lora.projections if lora.projections.count(name) > 1]
    if twice:
        yield f"lora.projections={list(lora.projections)} names {twice[0]} twice; name it once"
    if family == "gpt" and "gate" in lora.projections:
        yield (
            f"lora.projections={list(lora.projections)}: the MLP of family 'gpt' has no gate; use "
            "up and down"
        )
