"""The tensors that a model needs against those of a checkpoint: all differences at once."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from seq1f1b_jax.config import UserError
from seq1f1b_jax.models.decoder import Decoder
from seq1f1b_jax.models.hf.rules import Index, Rule
from seq1f1b_jax.models.hf.source import Source
from seq1f1b_jax.pipeline.stage import Params, leaf_name

HEAD = "lm_head.weight"
LISTED = 8
"""Tensors that a message names of one kind of mismatch."""

# Buffers that older checkpoints hold beside their weights: causal masks, rotary frequencies.
_BUFFERS = re.compile(
    r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias|"
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq|rope_freqs\.weight"
)
_NOT_WEIGHTS = re.compile(r"[IU]\d+|BOOL|F8_.*")


@dataclass(frozen=True)
class Match:
    """A checkpoint and a model that fit.

    Attributes:
      source: the checkpoint.
      stage: the model.
      rules: rule of each of our leaves, by path.
      names: the checkpoint's name of a tensor by the name in the rules.
    """

    source: Source
    stage: Decoder
    rules: dict[str, Rule]
    names: dict[str, str]

    def read(self, leaf: str, layer: int = 0) -> np.ndarray:
        """One layer's part of a leaf (the leaf itself outside of the layers), as it is stored.

        Raises:
          UserError: it holds NaN or infinity.
        """
        rule = self.rules[leaf]
        parts = [self._read(rule, leaf, index) for index in rule.indices(layer, self.stage)]
        return np.stack(parts) if rule.depth > 1 else parts[0]

    def _read(self, rule: Rule, leaf: str, index: Index) -> np.ndarray:
        name = self.names[rule.name.format(*index)]
        tensor = self.source.tensors.read(name)
        if not np.isfinite(tensor).all():
            raise UserError(
                f"{self.source.path}: {name} holds numbers that are not finite; get the file "
                "again, or use another checkpoint"
            )
        return rule.to_ours(tensor, leaf=leaf, stage=self.stage)


def leaf_shapes(stage: Decoder) -> Params:
    """Shapes of a model's parameters; nothing is allocated."""
    return jax.eval_shape(stage.init, jax.random.key(0))


def rules_of(stage: Decoder, table: Sequence[Rule]) -> dict[str, Rule]:
    """Rule of each leaf of a model, by the leaf's path."""
    leaves = [leaf_name(path) for path, _ in jax.tree.leaves_with_path(leaf_shapes(stage))]
    by_leaf = {leaf: rule for rule in table for leaf in rule.leaves}
    return {leaf: by_leaf[leaf] for leaf in leaves}


def wanted(stage: Decoder, table: Sequence[Rule]) -> Iterator[tuple[str, Rule, Index]]:
    """Name, rule and index of every tensor of a model's checkpoint, in the table's order."""
    ours = set(rules_of(stage, table).values())
    rules = [rule for rule in table if rule in ours]
    per_layer = [rule for rule in rules if rule.depth]
    before = rules.index(per_layer[0])
    yield from ((rule.name, rule, ()) for rule in rules[:before])
    for layer in range(stage.num_layers):
        for rule in per_layer:
            for index in rule.indices(layer, stage):
                yield rule.name.format(*index), rule, index
    yield from ((r.name, r, ()) for r in rules[before:] if r not in per_layer)


def match(source: Source, stage: Decoder) -> Match:
    """Pair a checkpoint with a model.

    Raises:
      UserError: they differ; the message lists what is missing, not part of the model, of another
        shape, or of a type that holds no weights.
    """
    table = source.description.rules
    found = source.tensors.tensors
    if source.fields["family"] != stage.family:
        raise UserError(
            f"{source.path} holds a {source.description.architecture}, which is not of family "
            f"{stage.family!r}; leave model.family to the checkpoint"
        )
    names = {_full_name(name, stage): name for name in found if not _BUFFERS.fullmatch(name)}
    table_name = rules_of(stage, table)["embedding"].name
    if stage.tied and HEAD in names:  # one table, which may have been saved under either name
        names.setdefault(table_name, names[HEAD])
    shapes = {name: rule.shape(stage) for name, rule, _ in wanted(stage, table)}
    extra = names.keys() - shapes.keys() - ({HEAD} if stage.tied else set())
    problems = [
        _list("missing", [f"{n} {list(shapes[n])}" for n in shapes if n not in names]),
        _list("not part of the model", [names[n] for n in names if n in extra]),
        _list("of another shape", [
            f"{n} is {list(found[names[n]].shape)}, not {list(shapes[n])}"
            for n in shapes if n in names and found[names[n]].shape != shapes[n]
        ]),
    ]
    if any(problems):
        raise UserError(
            f"{source.path} does not fit the model: {'; '.join(p for p in problems if p)}. Leave "
            "the sizes in model.* to the checkpoint, or give the one that has them"
        )
    result = Match(source, stage, rules_of(stage, table), names)
    _check_dtypes(result, shapes)
    _check_tied(result)
    return result


def _full_name(name: str, stage: Decoder) -> str:
    # The first GPT-2 files name their tensors without the model's prefix.
    bare = stage.family == "gpt" and not name.startswith(("transformer.", "lm_head."))
    return f"transformer.{name}" if bare else name


def _list(what: str, names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" * (len(names) > LISTED)
    return f"{len(names)} tensors {what}: {', '.join(names[:LISTED])}{more}" if names else ""


def _check_dtypes(match: Match, wanted_names) -> None:
    found = match.source.tensors.tensors
    kinds = {name: found[match.names[name]].dtype for name in wanted_names}
    wrong = [f"{name} is {kind}" for name, kind in kinds.items() if _NOT_WEIGHTS.fullmatch(kind)]
    if wrong:
        raise UserError(
            f"{match.source.path}: {_list('of a type that holds no weights', wrong)}; use a "
            "checkpoint in float32, float16 or bfloat16"
        )


def _check_tied(match: Match) -> None:
    """A tied model's file may hold the table twice, but not two tables."""
    if not (match.stage.tied and HEAD in match.names):
        return
    one = match.read("embedding")
    other = match.source.tensors.read(match.names[HEAD])
    if not np.array_equal(one, other):
        raise UserError(
            f"{match.source.path}: tie_word_embeddings is true, but {HEAD} differs from the "
            "embedding; set it to false in config.json"
        )
