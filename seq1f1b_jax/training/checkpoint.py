"""Checkpoints: saved in the background, committed whole or not at all, checked when they are read.

The state is a tree of arrays in a layout free of topology (`[num_layers, ...]`), so a run may
continue under another number of stages, chunks or microbatches. Orbax writes and reads the arrays;
`checkpoint_folder` makes the folder atomic and damage visible. One process writes one directory.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from seq1f1b_jax.config import UserError
from seq1f1b_jax.training import checkpoint_folder as folders

MAX_LINES = 8


@dataclass(frozen=True)
class Checkpoint:
    """An undamaged checkpoint on disk.

    Attributes:
      step: finished steps.
      path: its folder.
      leaves: type and shape of every array by name, as in `{"params.head": "float32[256,128]"}`.
      meta: what was given to `save`.
    """

    step: int
    path: Path
    leaves: dict[str, str]
    meta: dict[str, Any]


class Restored(NamedTuple):
    """`state` has the structure of `like`, its leaves are NumPy arrays."""

    step: int
    state: PyTree[np.ndarray]
    meta: dict[str, Any]


class Checkpointer:
    """Writes the checkpoints of one run, and reads them back.

    Opening creates the directory and clears away what a killed process left of an unfinished save.

    Args:
      directory: folder of the checkpoints, `runs/x/checkpoints` say.
      keep: number of newest checkpoints that stay; older ones go after the next one is committed.

    Raises:
      UserError: the directory cannot be written.

    Example:
      >>> with Checkpointer("runs/x/checkpoints", keep=2) as checkpointer:
      ...     checkpointer.save(100, state, meta={"config": config, "data": data.identity})
      ...     step, state, meta = checkpointer.restore(like=state)
    """

    def __init__(self, directory: str | Path, *, keep: int):
        if keep < 1:
            raise UserError(f"checkpoint.keep={keep}; at least 1 checkpoint has to stay")
        # Orbax takes absolute paths only
        self._directory = Path(directory).absolute()
        self._keep = keep
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            folders.clean_up(self._directory)
            probe = self._directory / ("probe" + folders.SAVING)
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise UserError(
                f"cannot write checkpoints to {directory} ({error.strerror}); "
                "set train.output_dir to a folder that this user may write"
            ) from error
        # The steps of this run's own past; a folder that is not among them is pruned.
        self._history = list(folders.committed_steps(self._directory))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def steps(self) -> tuple[int, ...]:
        """Steps with a committed checkpoint, ascending; damage shows only when one is read."""
        return folders.committed_steps(self._directory)

    def save(self, step: int, state: PyTree, *, meta: Mapping[str, Any]) -> None:
        """Start saving and return; waits first for a save that is still under way.

        The values are those at the time of the call: the caller may donate or overwrite the arrays
        afterwards. Checkpoints of `step` and later, left by a run that was ahead, are superseded.

        Args:
          step: finished steps.
          state: tree of NumPy or JAX arrays without empty ones.
          meta: anything JSON can hold; committed together with the state.
        """
        self.wait()
        leaves = {name: _as_array(leaf) for name, leaf in _named_leaves(state).items()}
        record = {"step": step, "leaves": _describe(leaves), "meta": dict(meta)}
        json.dumps(record)  # what JSON cannot hold is an error here, not in the background
        target = folders.folder_of(self._directory, step)
        saving = target.with_name(target.name + folders.SAVING)
        shutil.rmtree(saving, ignore_errors=True)
        with self._write_errors(step):
            saving.mkdir()
            writing = ocp.save_async(saving / folders.STATE, leaves)
        self._pending = self._thread.submit(self._finish, step, saving, target, writing, record)

    def wait(self) -> None:
        """Return once nothing is being saved; a save that failed in the background raises here."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def restore(
        self, step: int | None = None, *, like: PyTree, report: Callable[[str], None] = print
    ) -> Restored:
        """Read a checkpoint into the structure of `like`; None: the newest good one.

        The run is taken to continue from there: checkpoints of later steps are pruned at the next
        save. Arguments and errors are those of `find_checkpoint` and `load_state`.
        """
        self.wait()
        checkpoint = find_checkpoint(self._directory, step, report=report)
        state = load_state(checkpoint, like)
        self._history = [known for known in self._history if known <= checkpoint.step]
        return Restored(checkpoint.step, state, checkpoint.meta)

    def close(self) -> None:
        """Wait for the save under way and end the background thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _finish(
        self, step: int, saving: Path, target: Path, writing: ocp.AsyncResponse, record: dict
    ) -> None:
        """In the background: wait for Orbax, seal, commit, and only then prune."""
        with self._write_errors(step):
            writing.result()
            folders.seal(saving, record)
            folders.commit(saving, target)
            past = [known for known in self._history if known < step]
            self._history = [*past, step][-self._keep :]
            for known in folders.committed_steps(self._directory):
                if known not in self._history:
                    folders.remove(folders.folder_of(self._directory, known))

    @contextmanager
    def _write_errors(self, step: int) -> Iterator[None]:
        """Say what is left when a write fails; Orbax raises any of the three for a full disk."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"checkpoint of step {step} was not written to {self._directory} ({error}); make "
                f"space there or set train.output_dir; committed steps: {self.steps()}"
            ) from error


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
            record = folders.read_meta(folder)
            return Checkpoint(candidate, folder, record["leaves"], record["meta"])
        report(f"checkpoint of step {candidate} is damaged ({problem}); not used")
    raise UserError(
        f"no undamaged checkpoint in {directory} (looked at: {known if step is None else step}); "
        "restore one from a backup, or move the folder away to start over"
    )


def load_state(checkpoint: Checkpoint, like: PyTree) -> PyTree[np.ndarray]:
    """The arrays of a checkpoint, as NumPy arrays in the structure of `like`.

    Args:
      checkpoint: from `find_checkpoint`.
      like: tree whose leaves have a shape and a dtype (`jax.ShapeDtypeStruct`, arrays).

    Raises:
      UserError: an array is missing, left over, or of another shape or type; each in one line.
    """
    named = _named_leaves(like)
    different = differences(checkpoint.leaves, _describe(named))
    if different:
        raise UserError(
            f"checkpoint of step {checkpoint.step} is of another model: {len(different)} arrays "
            f"differ ({'; '.join(_shortened(different))}); use the configuration it was trained "
            "with, or another train.output_dir"
        )
    wanted = {
        name: np.broadcast_to(np.empty((), leaf.dtype), leaf.shape) for name, leaf in named.items()
    }
    loaded = ocp.load(checkpoint.path / folders.STATE, wanted)
    return jax.tree.unflatten(jax.tree.structure(like), [loaded[name] for name in named])


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


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    """Leaves by dotted path: flat names outlive renamed classes of an optimizer's state."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}
    assert len(named) == len(paths), "two leaves share a dotted name"
    return named


def _as_array(leaf: Any) -> np.ndarray | jax.Array:
    """Scalars become arrays without dims: Orbax stores arrays only."""
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def _describe(leaves: Mapping[str, Any]) -> dict[str, str]:
    """Type and shape of each leaf, `float32[8,128]`."""
    return {
        name: f"{np.dtype(leaf.dtype).name}[{','.join(map(str, leaf.shape))}]"
        for name, leaf in leaves.items()
    }
