"""Paths that a user types: resolved once, when they are read, and shown as typed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePath

from seq1f1b_jax.config import UserError

RUN_CONFIG = "config.yaml"
"""Configuration in the folder of a run, which `--config` reads."""


def resolve(path: str | os.PathLike[str]) -> Path:
    """The absolute path of `path` in the current working directory.

    `~` and `~user` are expanded. Links are not followed and `..` is kept, so that the system
    resolves both whenever the path is used.

    Raises:
      UserError: no file can have that name, or the working directory was deleted.

    Example:
      >>> from seq1f1b_jax.paths import resolve
      >>> resolve("/data/../runs/").as_posix()
      '/data/../runs'
    """
    text = os.fspath(path)
    if not text.strip():
        raise UserError(f"{text!r} is an empty path; name a file or a folder")
    if "\0" in text:
        raise UserError(f"{one_line(text)} holds a zero character, which no path can; leave it out")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise UserError(
            f"{one_line(text)}: there is no such user's home folder; name it in full, or put ./ "
            "before a name that begins with ~"
        ) from None
    except FileNotFoundError:
        raise UserError(
            f"{one_line(text)} is relative to the working directory, which is gone; change into "
            "one that exists"
        ) from None


def shown(text: str) -> str:
    """A typed path for use in a message: one line, no trailing slash.

    Example:
      >>> from seq1f1b_jax.paths import shown
      >>> shown("runs/deep/")
      'runs/deep'
    """
    return one_line(str(PurePath(text)))


def as_typed(message: str, typed: Mapping[str, str]) -> str:
    """A message on one line, with absolute paths replaced by what the user typed.

    Args:
      message: may name the absolute paths, or files below them.
      typed: what was typed, by absolute path.

    Example:
      >>> from seq1f1b_jax.paths import as_typed
      >>> as_typed("cannot read /home/me/runs/x/meta.json", {"/home/me/runs": "runs"})
      'cannot read runs/x/meta.json'
    """
    for path in sorted(typed, key=len, reverse=True):
        text = shown(typed[path])
        # `runs/x` may also replace the beginning of `runs/x.1`; `.` replaces whole folders only
        end = "" if PurePath(text).name == PurePath(path).name else r"(?![\w.-])"
        whole = rf"(?<![\w./-]){re.escape(path)}{end}"
        message = re.sub(whole, text.replace("\\", r"\\"), message)
    return one_line(message)


def one_line(text: object) -> str:
    r"""The text with unprintable characters escaped.

    Example:
      >>> from seq1f1b_jax.paths import one_line
      >>> print(one_line("two\nlines"))
      two\nlines
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))
