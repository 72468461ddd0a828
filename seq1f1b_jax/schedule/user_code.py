"""What a user names as `package.module:name`: imported, or refused in one line."""

import os
import re
import sys
from difflib import get_close_matches
from functools import reduce
from importlib import import_module
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
        module = import_module(module_name)
    except (ImportError, SyntaxError, *MISTAKES) as error:
        raise ValueError(
            f"{what}={name}: {module_name} cannot be imported ({reason(error)}); it must be a"
            " module in the working directory, on PYTHONPATH, or installed"
        ) from error
    try:
        found = reduce(getattr, path.split("."), module)
    except AttributeError:
        close = get_close_matches(path, dir(module), n=1)
        cure = f"did you mean {close[0]!r}?" if close else f"name {kind} in it"
        raise ValueError(f"{what}={name}: {module_name} has no {path!r}; {cure}") from None
    return found


def reason(error: BaseException) -> str:
    """An error in one line: its type, and the first line of its message."""
    return f"{type(error).__name__}: {one_line(str(error).strip().partition(chr(10))[0])}"
