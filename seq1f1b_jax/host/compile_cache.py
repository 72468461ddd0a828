"""Compiled programs kept from one start to the next, in a folder that nobody else may write to.

Anyone who can write to the cache chooses what machine code the next run executes. So it is in a
folder of the user's own with mode 0700, never in the run's folder, which others may share.
"""

import os
import stat
from pathlib import Path

import jax

from seq1f1b_jax.config import UserError

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
MIN_COMPILE_SECONDS = 1.0


def use_compile_cache(setting: str, *, run_folder: Path, platform: str) -> Path | None:
    """Let JAX keep compiled programs; to be called before the first compilation.

    A program that calls back into Python (`train.trace`, `watchdog.ticks`) is never kept. Of
    several processes the first one writes, and all that see the folder read.

    Args:
      setting: `off`; a folder; or `auto`: one below the home folder on accelerators, none on the
        CPU, where compiling takes seconds.
      run_folder: the run's, in which the cache must not be.
      platform: that the programs are compiled for.

    Returns:
      The folder, or None without a cache.

    Raises:
      UserError: the folder cannot be made, is in the run's folder, or others may write to it.

    Example:
      >>> from pathlib import Path
      >>> use_compile_cache("auto", run_folder=Path("runs/x"), platform="cpu")
    """
    if not setting.strip():
        raise UserError("train.compile_cache is empty; give a private folder, auto or off")
    if setting == "off" or (setting == "auto" and platform == "cpu"):
        return None
    folder = _home_folder() if setting == "auto" else Path(setting).expanduser()
    folder = folder.absolute()
    if folder.resolve().is_relative_to(run_folder.resolve()):
        raise UserError(
            f"train.compile_cache={setting} is in the run's folder {run_folder}, which others "
            "may share, and the cache holds programs that are run; give a private folder"
        )
    check_private(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    return folder


def check_private(folder: Path) -> None:
    """Make the folder with mode 0700, or see that it is this user's alone.

    Args:
      folder: an absolute path.

    Raises:
      UserError: it is not, or one of the folders above lets others replace it.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        found = folder.lstat()
        above = [(path, path.stat()) for path in folder.resolve().parents]
    except OSError as error:
        _refuse(folder, f"cannot be used ({error.strerror})")
    if not stat.S_ISDIR(found.st_mode):
        _refuse(folder, "is a link, which can be redirected")
    if found.st_uid != os.geteuid():
        _refuse(folder, f"belongs to user {found.st_uid}, not to you ({os.geteuid()})")
    if stat.S_IMODE(found.st_mode) & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        _refuse(folder, f"has mode {mode:04o} and others may enter")
    for path, state in above:
        if state.st_uid not in (0, os.geteuid()):
            _refuse(folder, f"is in {path}, which belongs to user {state.st_uid}")
        if state.st_mode & OTHERS_WRITE and not state.st_mode & stat.S_ISVTX:
            _refuse(folder, f"is in {path}, where others may replace it")


def _home_folder() -> Path:
    try:
        return Path.home() / ".cache" / "seq1f1b-jax" / "programs"
    except RuntimeError as error:  # a user without a home
        raise UserError(
            "train.compile_cache=auto: this user has no home folder; give a folder, or off"
        ) from error


def _refuse(folder: Path, reason: str) -> None:
    raise UserError(
        f"train.compile_cache: {folder} {reason}; the cache holds programs that are run, so it "
        "has to be a folder of mode 0700 that is yours: give one that is not there yet, which is "
        "made so, or --train.compile_cache off"
    )
