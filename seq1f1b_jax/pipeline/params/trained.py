"""Which leaves of a model train; the others are frozen, and stay as they are, bit by bit.

A tree of gradients, of accumulators or of an optimizer's state has `None` in the places of frozen
leaves, which JAX takes for no leaf at all. So whatever works on such a tree allocates, computes and
reduces nothing there. Only weights that train are arguments of a vjp: it keeps no residual for the
gradients of others, and holds no matmul of theirs.

A leaf of the layers is stacked over all of them: it trains in every layer, or in none.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import jax

from seq1f1b_jax.pipeline.stage import Stage, Tree, leaf_name


@dataclass(frozen=True)
class Trained:
    """The leaves that train.

    Attributes:
      names: their paths in `Params`, dots between; `None`: all of them.

    Example:
      >>> trained = Trained(frozenset({"layers.scale"}))
      >>> trained.only({"scale": 1.0, "kernel": 2.0}, "layers")
      {'kernel': None, 'scale': 1.0}
    """

    names: frozenset[str] | None = None

    def __contains__(self, name: str) -> bool:
        return self.names is None or name in self.names

    def only(self, tree: Tree, under: str = "") -> Tree:
        """A tree without its frozen leaves.

        Args:
          tree: of leaves, whatever they are.
          under: path of the tree in `Params`; empty: it is one itself.
        """
        return self.split(tree, under)[0]

    def split(self, tree: Tree, under: str = "") -> tuple[Tree, Tree]:
        """The leaves that train and the frozen ones, each with `None` for the others."""
        if self.names is None:
            return tree, jax.tree.map(lambda leaf: None, tree)
        start = under and f"{under}."

        def half(trains: bool) -> Tree:
            def keep(path: tuple, leaf: Any) -> Any:
                return leaf if (start + leaf_name(path) in self) == trains else None

            return jax.tree.map_with_path(keep, tree)

        return half(True), half(False)

    def vjp(self, function: Callable, weights: Tree, *values: Any) -> tuple[Any, Callable]:
        """`jax.vjp` of `function(weights, *values)`, for the weights of a layer that train.

        Returns:
          The result, and what gives the gradients: of these weights, then of the values.
        """
        own, frozen = self.split(weights, "layers")
        return jax.vjp(lambda own, *rest: function(merged(own, frozen), *rest), own, *values)


ALL = Trained()


def merged(own: Tree, frozen: Tree) -> Tree:
    """The inverse of `Trained.split`."""
    return jax.tree.map(
        lambda mine, other: other if mine is None else mine, own, frozen,
        is_leaf=lambda leaf: leaf is None,
    )


def find_trained(stage: Stage, patterns: Sequence[str] | None) -> Trained:
    """The leaves of a model that patterns name.

    Args:
      stage: the model.
      patterns: of paths in `Params` with dots between, as `fnmatch` reads them: `last.*`,
        `layers.mlp.*`, `embedding`; `None`: all leaves train.

    Raises:
      ValueError: a pattern that names no leaf, or no pattern at all.

    Example:
      >>> from seq1f1b_jax.models import build_stage
      >>> sorted(find_trained(build_stage("llama", preset="tiny"), ("*norm*", "head")).names)
      ['head', 'layers.attention_norm.scale', 'layers.mlp_norm.scale']
    """
    return ALL if patterns is None else Trained(matching(patterns, leaf_names(stage)))


def leaf_names(stage: Stage) -> tuple[str, ...]:
    """Paths of all leaves of a model's parameters, dots between."""
    params = jax.eval_shape(stage.init, jax.random.key(0))
    return tuple(leaf_name(path) for path, _ in jax.tree.leaves_with_path(params))


def matching(patterns: Sequence[str], names: Iterable[str]) -> frozenset[str]:
    """The names that at least one of the patterns fits.

    Raises:
      ValueError: a pattern that fits none, or no pattern at all.
    """
    names = tuple(names)
    known = f"the leaves are {', '.join(names)}; those of layers are of all layers at once"
    if not patterns:
        raise ValueError(f"train.trainable names nothing that trains; name some leaves: {known}")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"train.trainable={pattern} fits no leaf of the model; {known}")
    return frozenset(n for n in names if any(fnmatchcase(n, pattern) for pattern in patterns))
