"""Checkpoints: saved in the background, committed whole or not at all, checked when they are read.

Every process of a run writes what its devices own, in the layout it has there, so that no host
holds the whole state; `meta.json` records the layout. `read` turns it into the layout that is free
of topology (`[num_layers, ...]`): a run may continue under another number of stages, chunks,
microbatches, devices or processes. Orbax writes the arrays, `arrays` reads parts of them;
`folder` makes the folder atomic and damage visible. One run writes one directory.
"""

import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree
from orbax.checkpoint import v1 as ocp

from seq1f1b_jax.config import UserError
from seq1f1b_jax.distributed import ALONE, Group
from seq1f1b_jax.pipeline.params.layout import Kind, Layout
from seq1f1b_jax.training.checkpoint import folder as folders
from seq1f1b_jax.training.checkpoint.arrays import by_layer
from seq1f1b_jax.training.checkpoint.read import find_checkpoint, load_state
from seq1f1b_jax.training.checkpoint.record import make_record, named_leaves, names_of


class Restored(NamedTuple):
    """`state` has the structure of `like`, its leaves are NumPy arrays."""

    step: int
    state: PyTree[np.ndarray]
    meta: dict[str, Any]


POLL_SECONDS = 0.5


class Begun(NamedTuple):
    """A write under way, or the line that says why there is none; an empty one if there is."""

    writing: Any = None
    failure: str = ""


class Checkpointer:
    """Writes the checkpoints of one run, and reads them back.

    Opening creates the directory and clears away what a killed process left of an unfinished save.

    Args:
      directory: folder of the checkpoints, `runs/x/checkpoints` say.
      keep: number of newest checkpoints that stay; older ones go after the next one is committed.
      group: the processes of the run, all of which make the same calls.

    Raises:
      UserError: the directory cannot be written.

    Example:
      >>> from tempfile import TemporaryDirectory
      >>> import numpy as np
      >>> state = {"scale": np.ones(8, np.float32)}
      >>> with TemporaryDirectory() as folder, Checkpointer(folder, keep=2) as checkpointer:
      ...     checkpointer.save(100, state, meta={"seed": 0})
      ...     step, state, meta = checkpointer.restore(like=state)
      >>> step, state["scale"].sum(), meta
      (100, np.float32(8.0), {'seed': 0})
    """

    def __init__(self, directory: str | Path, *, keep: int, group: Group = ALONE):
        if keep < 1:
            raise UserError(f"checkpoint.keep={keep}; at least 1 checkpoint has to stay")
        # Orbax takes absolute paths only
        self._directory = Path(directory).absolute()
        self._keep = keep
        self._group = group
        group.first("checkpoint directory", self._prepare)
        # The steps of this run's own past; a folder that is not among them is pruned.
        self._history = list(folders.committed_steps(self._directory))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._unraisable = sys.unraisablehook
        for name in ("absl", "asyncio"):  # the filter stays: Orbax' threads live longer
            logging.getLogger(name).addFilter(_is_for_users)

    def steps(self) -> tuple[int, ...]:
        """Steps with a committed checkpoint, ascending; damage shows only when one is read."""
        return folders.committed_steps(self._directory)

    def save(
        self, step: int, state: PyTree, *, meta: Mapping[str, Any], like: PyTree | None = None,
        layout: Layout | None = None,
    ) -> None:
        """Start saving and return; waits first for a save that is still under way.

        The values are those at the time of the call: the caller may donate or overwrite the arrays
        afterwards. Checkpoints of `step` and later, left by a run that was ahead, are superseded.

        Args:
          step: finished steps.
          state: tree of NumPy or JAX arrays without empty ones.
          meta: anything JSON can hold; committed together with the state.
          like: shapes of the state free of topology, if it is on devices in a layout.
          layout: that layout; None: the state is free of topology.
        """
        self.wait()
        leaves = {name: _as_array(leaf) for name, leaf in named_leaves(state).items()}
        kinds = {} if layout is None else {
            name: kind for name, path in names_of(state).items() if (kind := layout.kind_of(path))
        }
        record = make_record(step, leaves, meta=meta, like=like, layout=layout, kinds=kinds)
        target = folders.folder_of(self._directory, step)
        saving = target.with_name(target.name + folders.SAVING)
        self._group.first("saving", partial(self._make_room, step, saving))
        sys.unraisablehook = partial(_without_closed_loops, self._unraisable)
        begun = self._attempt(step, partial(_begin, saving / folders.STATE, leaves, kinds))
        self._pending = self._thread.submit(self._finish, step, saving, target, begun, record)

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
        self.continue_from(checkpoint.step)
        return Restored(checkpoint.step, state, checkpoint.meta)

    def continue_from(self, step: int) -> None:
        """The run goes on after `step`: later checkpoints are pruned at the next save."""
        self._history = [known for known in self._history if known <= step]

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

    def _prepare(self) -> None:
        """Make the directory and see that it can be written."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            folders.clean_up(self._directory)
            probe = self._directory / ("probe" + folders.SAVING)
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise UserError(
                f"cannot write checkpoints to {self._directory} ({error.strerror}); "
                "set train.output_dir to a folder that this user may write"
            ) from error

    def _make_room(self, step: int, saving: Path) -> None:
        with self._write_errors(step):
            folders.clear(saving)
            saving.mkdir()

    def _finish(
        self, step: int, saving: Path, target: Path, begun: Begun, record: dict
    ) -> None:
        """In the background: wait for Orbax in all processes, then let the first one commit."""
        failure = begun.failure or self._attempt(step, partial(self._written, begun, step)).failure
        self._announce(step, failure)
        failures = self._group.gather("saved", failure)
        if any(failures):
            raise UserError(next(filter(None, failures)))
        sys.unraisablehook = self._unraisable
        self._group.first("committed", partial(self._commit, step, saving, target, record))
        self._history = self._past(step)

    def _written(self, begun: Begun, step: int) -> None:
        """Wait for Orbax, which waits for all processes, or for one that reports why it failed.

        Raises:
          UserError: another process could not write.
        """
        alone = self._group.count == 1
        while True:
            began = time.monotonic()
            try:
                return begun.writing.result(timeout=None if alone else POLL_SECONDS)
            except TimeoutError:
                if alone or time.monotonic() - began < POLL_SECONDS:  # the storage's, not ours
                    raise
                if failure := self._group.peek(f"failed save {step}"):
                    raise UserError(failure) from None

    def _announce(self, step: int, failure: str) -> None:
        """Post a note for the others, which would wait in vain; the first note is kept."""
        if failure and self._group.count > 1:
            self._group.post(f"failed save {step}", failure)

    def _attempt(self, step: int, write: Callable[[], Any]) -> Begun:
        """What `write` returns, or the line that says why it failed."""
        try:
            with self._write_errors(step):
                return Begun(write())
        except UserError as error:
            return Begun(failure=str(error))

    def _commit(self, step: int, saving: Path, target: Path, record: dict) -> None:
        """Seal, commit, and only then prune."""
        with self._write_errors(step):
            folders.seal(saving, record)
            folders.commit(saving, target)
            for known in folders.committed_steps(self._directory):
                if known not in self._past(step):
                    folders.remove(folders.folder_of(self._directory, known))

    def _past(self, step: int) -> list[int]:
        """Steps whose checkpoints stay once that of `step` is there."""
        return [*(known for known in self._history if known < step), step][-self._keep :]

    @contextmanager
    def _write_errors(self, step: int) -> Iterator[None]:
        """Report what is left when a write fails; Orbax raises any of the three for a full disk."""
        try:
            yield
        except UserError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"checkpoint of step {step} was not written to {self._directory} "
                f"({cause_of(error)}); make space there or set train.output_dir; committed steps: "
                f"{self.steps()}"
            ) from error


def _begin(folder: Path, leaves: Mapping[str, Any], kinds: Mapping[str, Kind]) -> Any:
    with by_layer(kinds):
        return ocp.save_async(folder, leaves)


def cause_of(error: Exception) -> str:
    r"""The system's reason for a failed write, or else its first line.

    Example:
      >>> cause_of(OSError(28, "No space left on device", "a")), cause_of(ValueError("a\nb"))
      ('No space left on device', 'a')
      >>> cause_of(ValueError('Failed writing: "a": File too large [os_error_code=\'27\']'))
      'File too large'
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    if found := re.search(r"\[os_error_code='(\d+)'\]", text):
        return os.strerror(int(found[1]))
    return (text.splitlines() or [type(error).__name__])[0]


def _is_for_users(record: logging.LogRecord) -> bool:
    """Whether a log record is no stack trace of Orbax: a write that failed has our own line.

    Nor of writes that are no longer awaited, since another one has failed.
    """
    if record.name == "asyncio":
        return not record.getMessage().startswith("Task exception was never retrieved")
    return record.levelno < logging.ERROR or "orbax" not in Path(record.pathname).parts


def _without_closed_loops(report: Callable[[Any], Any], unraisable: Any) -> None:
    """Report what could not be raised, except writes that end after another has failed."""
    if str(unraisable.exc_value) != "Event loop is closed":
        report(unraisable)


def _as_array(leaf: Any) -> np.ndarray | jax.Array:
    """Scalars become arrays without dims: Orbax stores arrays only."""
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
