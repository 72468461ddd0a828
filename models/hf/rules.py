"""Which tensor of a checkpoint is which of our leaves, and in which order of dims.

A rule is a name (`{}` is the layer, a second one the expert) and, for each of our leaves in it, two
einops patterns, theirs and ours. Letters:

    d model_dim    h num_heads    k num_kv_heads    e head_dim    f mlp_dim    v vocab_size
    n max_positions    t 2 (halves of a head)    r head_dim / 2    x num_experts

So `(h e) d` -> `d (h e)` is the transpose from PyTorch's `[out, in]` to our `[in, out]`.
"""

import math
from dataclasses import dataclass

import numpy as np
from einops import rearrange

from seq1f1b_jax.models.decoder import Decoder

Index = tuple[int, ...]
"""The numbers in a tensor's name."""


@dataclass(frozen=True)
class Piece:
    """What a tensor of a checkpoint holds of one of our leaves.

    Attributes:
      leaf: its path in `Params`, dots between.
      theirs: einops pattern of it in the checkpoint.
      ours: pattern of our leaf.
    """

    leaf: str
    theirs: str
    ours: str

    def shape(self, sizes: dict[str, int]) -> tuple[int, ...]:
        """Its shape in the checkpoint."""
        return tuple(math.prod(sizes[c] for c in group) for group in groups(self.theirs))


@dataclass(frozen=True)
class Rule:
    """One line of a table.

    Attributes:
      name: the tensor's name in the checkpoint; `{}` is the layer, a second one the expert, of
        which our leaf has a stack.
      pieces: what it holds, one after the other.
      axis: dim along which it holds several.
    """

    name: str
    pieces: tuple[Piece, ...]
    axis: int = 0

    @property
    def depth(self) -> int:
        """How many numbers are in the name: of a layer 1, of an expert 2."""
        return self.name.count("{}")

    def indices(self, layer: int, stage: Decoder) -> list[Index]:
        """The numbers in the names of a layer's tensors."""
        if self.depth < 2:
            return [(layer,) * self.depth]
        return [(layer, expert) for expert in range(letters(stage)["x"])]

    @property
    def leaves(self) -> tuple[str, ...]:
        """Paths of our leaves."""
        return tuple(piece.leaf for piece in self.pieces)

    def shape(self, stage: Decoder) -> tuple[int, ...]:
        """The tensor's shape in the checkpoint of a model."""
        shapes = [piece.shape(letters(stage)) for piece in self.pieces]
        whole = list(shapes[0])
        whole[self.axis] = sum(shape[self.axis] for shape in shapes)
        return tuple(whole)

    def to_ours(self, tensor: np.ndarray, *, leaf: str, stage: Decoder) -> np.ndarray:
        """The part of a checkpoint's tensor that is our leaf, a view where that is possible."""
        index = self.leaves.index(leaf)
        if len(self.pieces) > 1:
            sizes = [piece.shape(letters(stage))[self.axis] for piece in self.pieces]
            tensor = np.split(tensor, np.cumsum(sizes)[:-1], axis=self.axis)[index]
        piece = self.pieces[index]
        return rearrange(tensor, f"{piece.theirs} -> {piece.ours}", **_sizes(piece, stage))

    def to_theirs(self, parts: list[np.ndarray], *, stage: Decoder) -> np.ndarray:
        """The checkpoint's tensor from our leaves, in the order of `leaves`."""
        found = [
            rearrange(part, f"{piece.ours} -> {piece.theirs}", **_sizes(piece, stage))
            for part, piece in zip(parts, self.pieces, strict=True)
        ]
        return found[0] if len(found) == 1 else np.concatenate(found, axis=self.axis)


def rule(name: str, leaf: str, theirs: str, ours: str) -> Rule:
    """A tensor that is one of our leaves."""
    return Rule(name, (Piece(leaf, theirs, ours),))


def fused(name: str, *rules: Rule, axis: int = 0) -> Rule:
    """A tensor that holds those of several rules, one after the other."""
    return Rule(name, tuple(piece for one in rules for piece in one.pieces), axis)


def replaced(rules: tuple[Rule, ...], **by_leaf: Rule) -> tuple[Rule, ...]:
    """A table in which some rules are others; a name is of a leaf, with `__` for its dots."""
    new = {leaf.replace("__", "."): one for leaf, one in by_leaf.items()}
    return tuple(new.get(one.leaves[0], one) for one in rules)


def letters(stage: Decoder) -> dict[str, int]:
    """Sizes of the letters of a pattern."""
    return {
        "d": stage.model_dim, "h": stage.num_heads, "k": stage.num_kv_heads, "e": stage.head_dim,
        "f": stage.mlp_dim, "v": stage.vocab_size, "n": getattr(stage, "max_positions", 0) or 0,
        "t": 2, "r": stage.head_dim // 2, "x": getattr(stage, "num_experts", 0),
    }


def _sizes(piece: Piece, stage: Decoder) -> dict[str, int]:
    return {c: n for c, n in letters(stage).items() if c in piece.theirs}


def groups(pattern: str) -> list[str]:
    """Letters of every dim of a pattern: `d (h e)` -> `["d", "he"]`."""
    parts = pattern.replace("(", " ( ").replace(")", " ) ").split()
    found, inside = [], False
    for part in parts:
        if part in "()":
            inside = part == "("
            found += [""] if inside else []
        elif inside:
            found[-1] += part
        else:
            found.append(part)
    return found
