"""A run's folder: its owner, and the files in it besides checkpoints and metrics."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from seq1f1b_jax.config import UserError
from seq1f1b_jax.data import Tokenizer
from seq1f1b_jax.data.tokenizer import TOKENIZER, TOKENIZER_CONFIG
from seq1f1b_jax.host.files import cannot_write, first_free, replace_file
from seq1f1b_jax.host.lock import LOCK
from seq1f1b_jax.paths import RUN_CONFIG
from seq1f1b_jax.training.checkpoint.folder import CHECKPOINTS
from seq1f1b_jax.training.reports.events import EVENTS
from seq1f1b_jax.training.reports.metrics import METRICS


def set_aside(folder: Path) -> Path | None:
    """Rename an earlier run's folder to the first free `<folder>.N`; nothing saved is ever lost.

    Raises:
      UserError: the folder holds no run, is in use as the working folder, or may not be renamed.
    """
    if not folder.is_dir() or {path.name for path in folder.iterdir()} <= {LOCK}:
        return None
    if not _holds_run(folder):
        raise UserError(
            f"{folder} holds files and no run; --train.resume never moves an earlier run aside "
            "and nothing else: set --train.output_dir to a folder of its own"
        )
    if Path.cwd().is_relative_to(folder.resolve()):
        raise UserError(
            f"--train.output_dir {folder} is the folder you are in, or above it, and cannot be "
            "moved aside; set another"
        )
    real = folder.resolve()  # of a link, the folder that it points to is moved
    moved = first_free(real)
    try:
        real.rename(moved)
        real.mkdir()
    except OSError as error:
        raise UserError(
            f"cannot move the earlier run {folder} to {moved.name} ({error.strerror}); "
            "set another --train.output_dir"
        ) from error
    return moved


def write_recipe(folder: Path, recipe: str) -> None:
    """Keep the run's configuration as YAML that `--config` reads, whole or not at all.

    Raises:
      UserError: the folder cannot be written.
    """
    replace_file(folder / RUN_CONFIG, recipe.encode())


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds no run, and files that a run would overwrite.

    Such as a checkpoint from elsewhere, or a project with a `config.yaml`.

    Raises:
      UserError: it is one.
    """
    names = (RUN_CONFIG, TOKENIZER, TOKENIZER_CONFIG)
    found = [name for name in names if os.path.lexists(folder / name)]
    if found and not _holds_run(folder):
        raise UserError(
            f"{folder} holds {found[0]} and no run; nothing is overwritten: set train.output_dir "
            "to a folder of its own"
        )


def _holds_run(folder: Path) -> bool:
    """Whether a run has begun there: it makes these before it writes anything else."""
    return any((folder / name).exists() for name in (CHECKPOINTS, EVENTS, METRICS))


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Keep the tokenizer of the run's text, so that the run can be sampled from without its data.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        with TemporaryDirectory(dir=folder) as made:
            tokenizer.save(Path(made))
            for file in Path(made).iterdir():
                os.replace(file, folder / file.name)  # a link is replaced, not followed
    except OSError as error:
        raise cannot_write(folder / TOKENIZER, error) from error
