"""What a user names as `package.module:name`: imported, or refused in one line."""

import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import reduce
from importlib import import_module
from traceback import walk_tb
from typing import Any

from seq1f1b_jax.paths import one_line

IMPORTABLE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
MISTAKES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NameError, NotImplementedError,
    TypeError, ValueError,
)  # fmt: skip
"""What a function with a mistake in it raises."""


def import_named(name: str, *, what: str, kind: str) -> Any:
    """Import something that can be called from where Python looks, and the working directory.

    Args:
      name: `package.module:name`.
      what: the setting that names it, for messages.
      kind: what it should be, for messages.

    Raises:
      ValueError: no such module or name, or it cannot be called.

    Example:
      >>> from seq1f1b_jax.schedule.user_code import import_named
      >>> import_named("math:gcd", what="schedule", kind="a function")(4, 6)
      2
    """
    module_name, _, path = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        with one_line_refusal(f"{what}={name}: importing {module_name} failed"):
            module = import_module(module_name)
    except ValueError as error:
        cause = error.__cause__
        if not isinstance(cause, ModuleNotFoundError) or (
            not f"{module_name}.".startswith(f"{cause.name}.")  # of a module that it imports
        ):
            raise
        raise ValueError(
            f"{what}={name}: {module_name} was not found ({reason(cause)}); it must be a "
            "module in the working directory, on PYTHONPATH, or installed"
        ) from cause
    try:
        found = reduce(getattr, path.split("."), module)
    except AttributeError:
        close = get_close_matches(path, dir(module), n=1)
        cure = f"did you mean {close[0]!r}?" if close else f"name {kind} in it"
        raise ValueError(f"{what}={name}: {module_name} has no {path!r}; {cure}") from None
    return found


@contextmanager
def one_line_refusal(what: str) -> Iterator[None]:
    """Run code of the user's; whatever it raises, `SystemExit` too, becomes one line.

    Raises:
      ValueError: `what`, the error, and the last line of the user's that it came through.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ValueError(f"{what}: {reason(error)}{place_of(error)}") from error


def place_of(error: BaseException) -> str:
    """` (file.py:12)`: the last line outside of libraries that an error came through, if any."""
    if isinstance(error, SyntaxError):
        return f" ({error.filename}:{error.lineno})"
    libraries = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    lines = [
        f" ({frame.f_code.co_filename}:{line})"
        for frame, line in walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] != "seq1f1b_jax"
        and not frame.f_code.co_filename.startswith(("<", *libraries))
    ]
    return lines[-1] if lines else ""


def reason(error: BaseException) -> str:
    """An error in one line: its type, and the first line of its message."""
    first = one_line(str(error).strip().partition("\n")[0])
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
