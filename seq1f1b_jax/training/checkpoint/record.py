"""The record of a checkpoint: its step, its arrays and their layout, what came with them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from seq1f1b_jax.config import UserError
from seq1f1b_jax.pipeline.params.layout import Kind, Layout
from seq1f1b_jax.training.checkpoint import folder as folders


class Vanished(UserError):
    """A checkpoint that was there, and was deleted while it was read."""


@dataclass(frozen=True)
class Checkpoint:
    """An undamaged checkpoint on disk.

    Attributes:
      step: finished steps.
      path: its folder.
      leaves: type and shape of every array by name, as in `{"params.head": "float32[256,128]"}`,
        in the layout that is free of topology.
      meta: what was given to `save`.
      stored: likewise, of the arrays on disk.
      layout: of those; None: free of topology.
      kinds: of arrays that are not the same in every layout, by name.
    """

    step: int
    path: Path
    leaves: dict[str, str]
    meta: dict[str, Any]
    stored: dict[str, str]
    layout: Layout | None
    kinds: dict[str, Kind]


def make_record(
    step: int, leaves: Mapping[str, Any], *, meta: Mapping[str, Any], like: PyTree | None,
    layout: Layout | None, kinds: Mapping[str, Kind],
) -> dict[str, Any]:
    """What `meta.json` holds of a checkpoint; `like` has the shapes that are free of topology."""
    record = {"step": step, "leaves": describe(leaves), "meta": dict(meta)}
    if layout is not None:
        record |= {
            "leaves": describe(named_leaves(like)), "stored": describe(leaves),
            "layout": asdict(layout), "kinds": dict(kinds),
        }
    json.dumps(record)  # what JSON cannot hold is an error here, not in the background
    return record


def read_checkpoint(folder: Path, step: int) -> Checkpoint:
    """A committed checkpoint by its record.

    Raises:
      Vanished: it has been deleted.
      UserError: the record is not that of a checkpoint of this step.
    """
    try:
        record = folders.read_meta(folder)
        layout, leaves = record.get("layout"), record["leaves"]
        found = Checkpoint(
            record["step"], folder, leaves, record["meta"], record.get("stored", leaves),
            None if layout is None else layout_from(layout), record.get("kinds", {}),
        )
        for text in (leaves | found.stored).values():
            abstract(text)
        if not (isinstance(found.meta, dict) and found.kinds.keys() <= found.stored.keys()):
            raise ValueError("parts of it do not fit")
    except OSError as error:
        refuse_vanished(folder, error)
        raise UserError(f"{folders.META}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{folders.META} is not the record of a checkpoint") from error
    if found.step != step:
        raise UserError(f"by its {folders.META} it is that of step {found.step}")
    return found


def refuse_vanished(folder: Path, error: Exception | None = None) -> None:
    """Distinguish what is being deleted from what is damaged."""
    if not folder.is_dir():
        raise Vanished(
            f"{folder} was deleted while it was read: a run is training there; repeat the command"
        ) from error


OLD_FIELDS = {"num_virtual": "stages_per_rank"}
"""Of a layout, in records of earlier versions -> their names now."""


def layout_from(fields: Mapping[str, Any]) -> Layout:
    """A layout from JSON, where tuples are lists."""

    def tuples(value):
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    return Layout(**{OLD_FIELDS.get(name, name): tuples(value) for name, value in fields.items()})


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Leaves by dotted path: flat names outlive renamed classes of an optimizer's state."""
    return dict(zip(names_of(tree), jax.tree.leaves(tree), strict=True))


def names_of(tree: PyTree) -> dict[str, tuple]:
    """Paths of the leaves by their dotted names, in the order of the leaves."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    named = {jax.tree_util.keystr(path, simple=True, separator="."): path for path in paths}
    assert len(named) == len(paths), "two leaves share a dotted name"
    return named


def describe(leaves: Mapping[str, Any]) -> dict[str, str]:
    """Type and shape of each leaf, `float32[8,128]`."""
    return {
        name: f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"
        for name, leaf in leaves.items()
    }


def abstract(text: str) -> jax.ShapeDtypeStruct:
    """Shape and type from a text of `describe`.

    Example:
      >>> abstract("float32[8,128]")
      ShapeDtypeStruct(shape=(8, 128), dtype=float32)
    """
    dtype, _, dims = text.rstrip("]").partition("[")
    return jax.ShapeDtypeStruct([int(dim) for dim in dims.split(",") if dim], np.dtype(dtype))
