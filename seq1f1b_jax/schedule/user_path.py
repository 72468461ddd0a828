"""Paths as users type them: opened where they mean, shown as they were typed, in one line."""

import os
from pathlib import Path


def resolve(path: str | os.PathLike[str]) -> Path:
    """The file that a user means: `~` is the home folder.

    Example:
      >>> from seq1f1b_jax.schedule.user_path import resolve
      >>> resolve("plans/mine.csv").name, "~" in str(resolve("~/mine.csv"))
      ('mine.csv', False)
    """
    return Path(os.path.expanduser(path))


def one_line(text: object) -> str:
    r"""Write a text so that it stays in its line, and on any terminal: what does not print escaped.

    Example:
      >>> from seq1f1b_jax.schedule.user_path import one_line
      >>> print(one_line("two\nlines of größe.csv"))
      two\nlines of größe.csv
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
