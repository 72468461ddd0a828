"""Checkpoints read back: found, verified byte by byte, and in the layout that is free of topology.

A run stores arrays as they lie on its devices; `meta.json` says which layout that is. They are read
some rows at a time in the layout that is free of topology, so that a process need not hold more of
them than it wants.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from seq1f1b_jax.config import UserError
from seq1f1b_jax.pipeline.layout import Kind, Layout
from seq1f1b_jax.pipeline.rows import Rows, unstacked
from seq1f1b_jax.training import checkpoint_folder as folders
from seq1f1b_jax.training.stored import open_stored

MAX_LINES = 8


@dataclass(frozen=True)
class Checkpoint:
    """An undamaged checkpoint on disk.

    Attributes:
      step: finished steps.
      path: its folder.
      leaves: type and shape of every array by name, as in `{"params.head": "float32[256,128]"}`,
        in the layout that is free of topology.
      meta: what was given to `save`.
      stored: likewise, as the arrays lie on disk.
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
    """A committed checkpoint by its record."""
    record = folders.read_meta(folder)
    layout = record.get("layout")
    return Checkpoint(
        step, folder, record["leaves"], record["meta"], record.get("stored", record["leaves"]),
        None if layout is None else layout_from(layout), record.get("kinds", {}),
    )


def layout_from(fields: Mapping[str, Any]) -> Layout:
    """A layout from JSON, where tuples are lists."""

    def tuples(value):
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    return Layout(**{name: tuples(value) for name, value in fields.items()})


def find_checkpoint(
    directory: str | Path, step: int | None = None, *, report: Callable[[str], None] = print
) -> Checkpoint:
    """Look up a checkpoint and verify every byte of it. Writes nothing.

    Args:
      directory: folder of the checkpoints.
      step: which one; None: the newest that is not damaged.
      report: receives one line for each damaged checkpoint that is passed over.

    Raises:
      UserError: there is none, all are damaged, or the one asked for is missing or damaged.
    """
    directory = Path(directory).absolute()
    steps = folders.committed_steps(directory)
    known = ", ".join(map(str, steps)) or "none"
    if step is not None and step not in steps:
        raise UserError(f"no checkpoint of step {step} in {directory}; there are: {known}")
    if not steps:
        raise UserError(f"no checkpoint in {directory}; train first, or correct train.output_dir")
    for candidate in reversed(steps) if step is None else (step,):
        folder = folders.folder_of(directory, candidate)
        problem = folders.damage(folder)
        if problem is None:
            return read_checkpoint(folder, candidate)
        report(f"checkpoint of step {candidate} is damaged ({problem}); not used")
    raise UserError(
        f"no undamaged checkpoint in {directory} (looked at: {known if step is None else step}); "
        "restore one from a backup, or move the folder away to start over"
    )


def load_state(checkpoint: Checkpoint, like: PyTree) -> PyTree[np.ndarray]:
    """The arrays of a checkpoint, free of topology, as NumPy arrays in the structure of `like`.

    Args:
      checkpoint: from `find_checkpoint`.
      like: tree whose leaves have a shape and a dtype (`jax.ShapeDtypeStruct`, arrays).

    Raises:
      UserError: an array is missing, left over, or of another shape or type; each in one line.
    """
    return jax.tree.map(np.asarray, open_state(checkpoint, like))


def check_leaves(checkpoint: Checkpoint, like: PyTree, *, under: str = "") -> None:
    """Refuse a checkpoint with other arrays than `like`, a tree of what lies `under` a name.

    Raises:
      UserError: all differences in one line.
    """
    saved = {n: text for n, text in checkpoint.leaves.items() if n.startswith(under)}
    current = {under + name: text for name, text in describe(named_leaves(like)).items()}
    different = differences(saved, current)
    if different:
        raise UserError(
            f"checkpoint of step {checkpoint.step} is of another model: {len(different)} arrays "
            f"differ ({'; '.join(_shortened(different))}); use the configuration it was trained "
            "with, or another train.output_dir"
        )


def open_state(checkpoint: Checkpoint, like: PyTree, *, under: str = "") -> PyTree:
    """The arrays of a checkpoint, free of topology, in the structure of `like`, a tree of what lies
    `under` a name; `Rows` that are read when they are asked for.

    Raises:
      UserError: as `check_leaves`.
    """
    check_leaves(checkpoint, like, under=under)
    leaves = [open_leaf(checkpoint, under + name) for name in named_leaves(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def open_leaf(checkpoint: Checkpoint, name: str) -> Rows | np.ndarray:
    """One array by its name, free of topology; one without dims is read at once."""
    stored, kind = abstract(checkpoint.stored[name]), checkpoint.kinds.get(name)
    store = partial(open_stored, checkpoint.path / folders.STATE, name)
    if not stored.shape:
        return np.asarray(store().read().result())
    if kind is not None and checkpoint.layout is not None:

        def take():
            array = store()
            return lambda rank, first, last: array[rank, first:last].read().result()

        return unstacked(stored.shape, stored.dtype, kind, checkpoint.layout, take)

    def rows():
        array = store()
        return lambda start, stop: array[start:stop].read().result()

    return Rows(tuple(stored.shape), np.dtype(stored.dtype), rows)


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What differs between two nested mappings, one line per field; tuples equal lists, as in JSON.

    Example:
      >>> differences({"model": {"num_layers": 8}}, {"model": {"num_layers": 12}})
      ['model.num_layers: checkpoint 8, this run 12']
    """
    old, new = _flat(saved), _flat(json.loads(json.dumps(current)))
    return [
        f"{name}: checkpoint {old.get(name, 'has none')}, this run {new.get(name, 'has none')}"
        for name in sorted(old.keys() | new.keys())
        if name not in old or name not in new or old[name] != new[name]
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        inner = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return flat


def _shortened(lines: list[str]) -> list[str]:
    rest = len(lines) - MAX_LINES
    return lines if rest <= 0 else [*lines[:MAX_LINES], f"and {rest} more"]


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
    """Shape and type from what `describe` tells.

    Example:
      >>> abstract("float32[8,128]")
      ShapeDtypeStruct(shape=(8, 128), dtype=float32)
    """
    dtype, _, dims = text.rstrip("]").partition("[")
    return jax.ShapeDtypeStruct([int(dim) for dim in dims.split(",") if dim], np.dtype(dtype))
