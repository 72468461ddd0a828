"""Checkpoints read back: found, verified byte by byte, and in the layout that is free of topology.

A run stores arrays in the layout of its devices, which `meta.json` records. They are read
some rows at a time in the layout that is free of topology, so that a process need not hold more of
them than it wants.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import PyTree

from seq1f1b_jax.config import UserError
from seq1f1b_jax.pipeline.params.rows import Reader, Rows, Take, unstacked
from seq1f1b_jax.training.checkpoint import folder as folders
from seq1f1b_jax.training.checkpoint.arrays import open_array
from seq1f1b_jax.training.checkpoint.record import (
    Checkpoint,
    Vanished,
    abstract,
    describe,
    named_leaves,
    read_checkpoint,
    refuse_vanished,
)

T = TypeVar("T")

MAX_LINES = 8
LOOKS = 20
"""How often a reader looks for the newest checkpoint, where a run deletes what it looks at."""


def find_checkpoint(
    directory: str | Path, step: int | None = None, *, report: Callable[[str], None] = print,
    is_ours: Callable[[Mapping[str, Any]], bool] = lambda meta: True,
) -> Checkpoint:
    """Look up a checkpoint and verify every byte of it. Writes nothing.

    Args:
      directory: folder of the checkpoints.
      step: which one; None: the newest that is not damaged.
      report: receives one line for each damaged checkpoint that is passed over.
      is_ours: whether `meta` is what the caller gave to `save`; else it counts as damaged.

    Raises:
      UserError: there is none, all are damaged, or the one asked for is missing or damaged.
    """
    directory = Path(directory).absolute()
    reported: set[str] = set()

    def once(line: str) -> None:
        if line not in reported:
            reported.add(line)
            report(line)

    return read_again(partial(_look, directory, step, once, is_ours))


def read_again(read: Callable[[], T], *, times: int = LOOKS) -> T:
    """What `read` returns, retried whenever a run deletes what it reads.

    Raises:
      Vanished: it did so every time.
    """
    for _ in range(times - 1):
        with suppress(Vanished):
            return read()
    return read()


def _look(
    directory: Path, step: int | None, report: Callable[[str], None],
    is_ours: Callable[[Mapping[str, Any]], bool],
) -> Checkpoint:
    steps = folders.committed_steps(directory)
    known = ", ".join(map(str, steps)) or "none"
    if step is not None and step not in steps:
        raise UserError(f"no checkpoint of step {step} in {directory}; there are: {known}")
    if not steps:
        raise UserError(f"no checkpoint in {directory}; train first, or correct train.output_dir")
    for candidate in reversed(steps) if step is None else (step,):
        found = _examine(folders.folder_of(directory, candidate), candidate, is_ours)
        if isinstance(found, Checkpoint):
            return found
        report(f"checkpoint of step {candidate} is damaged ({found}); not used")
    raise UserError(
        f"no undamaged checkpoint in {directory} (looked at: {known if step is None else step}); "
        "restore one from a backup, or move the folder away to start over"
    )


def _examine(
    folder: Path, step: int, is_ours: Callable[[Mapping[str, Any]], bool]
) -> Checkpoint | str:
    """The checkpoint, or what is wrong with it."""
    problem = folders.damage(folder)
    refuse_vanished(folder)
    if problem is not None:
        return problem
    try:
        found = read_checkpoint(folder, step)
    except Vanished:
        raise
    except UserError as error:
        return str(error)
    return found if is_ours(found.meta) else f"{folders.META} is not the record of a run"


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
    """Refuse a checkpoint with other arrays than `like`, a tree of what is `under` a name.

    Raises:
      UserError: all differences in one line.
    """
    saved = {n: text for n, text in checkpoint.leaves.items() if n.startswith(under)}
    current = {under + name: text for name, text in describe(named_leaves(like)).items()}
    different = differences(saved, current)
    if different:
        count = "1 array differs" if len(different) == 1 else f"{len(different)} arrays differ"
        raise UserError(
            f"checkpoint of step {checkpoint.step} is of another model: {count} "
            f"({'; '.join(_shortened(different))}); use the configuration it was trained with, or "
            "another train.output_dir"
        )


def open_state(checkpoint: Checkpoint, like: PyTree, *, under: str = "") -> PyTree:
    """The arrays of a checkpoint, free of topology, in the structure of `like`, a tree of what is
    `under` a name; `Rows` that are read on demand.

    Raises:
      UserError: as `check_leaves`.
    """
    check_leaves(checkpoint, like, under=under)
    leaves = [open_leaf(checkpoint, under + name) for name in named_leaves(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def open_leaf(checkpoint: Checkpoint, name: str) -> Rows | np.ndarray:
    """One array by its name, free of topology; one without dims is read at once.

    Reading its rows raises `Vanished` where the checkpoint was deleted meanwhile.
    """
    stored, kind = abstract(checkpoint.stored[name]), checkpoint.kinds.get(name)

    def opened() -> Callable[..., np.ndarray]:
        with _unless_deleted(checkpoint):
            array = open_array(checkpoint.path / folders.STATE, name)

        def read(*index: Any) -> np.ndarray:
            with _unless_deleted(checkpoint):
                return array[index].read().result()

        return read

    if not stored.shape:
        return np.asarray(opened()())
    if kind is not None and checkpoint.layout is not None:

        def take() -> Take:
            read = opened()
            return lambda rank, first, last: read(rank, slice(first, last))

        shape = abstract(checkpoint.leaves[name]).shape
        return unstacked(shape, stored.dtype, kind, checkpoint.layout, take)

    def rows() -> Reader:
        read = opened()
        return lambda start, stop: read(slice(start, stop))

    return Rows(tuple(stored.shape), np.dtype(stored.dtype), rows)


@contextmanager
def _unless_deleted(checkpoint: Checkpoint) -> Iterator[None]:
    """Distinguish what was deleted from what is damaged."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        refuse_vanished(checkpoint.path, error)
        raise


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What differs between two nested mappings, one line per field, by JSON: tuples equal lists.

    An empty mapping equals a missing one.

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
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return flat


def _shortened(lines: list[str]) -> list[str]:
    rest = len(lines) - MAX_LINES
    return lines if rest <= 0 else [*lines[:MAX_LINES], f"and {rest} more"]


