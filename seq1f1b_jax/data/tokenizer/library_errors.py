"""Errors of the `tokenizers` library about bad input, on one line."""

import os

from seq1f1b_jax.config import UserError

UNUSABLE = "holds no tokenizer that can be used"


class LibraryErrors:
    """Turn errors of the library about bad input into a `UserError`.

    The library raises a bare `Exception`; or, if its own code panics, a `PanicException`, which is
    not an `Exception` and cannot be imported. On a panic it also prints a stack trace.

    Args:
      what: what went wrong; the library's reason is appended.
      quiet: discard standard error meanwhile, from every thread.
    """

    def __init__(self, what: str, *, quiet: bool = False):
        self._what, self._quiet = what, quiet
        self._errors: int | None = None

    def __enter__(self) -> None:
        if self._quiet:
            self._errors = _silence(2)

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if self._errors is not None:
            os.dup2(self._errors, 2)
            os.close(self._errors)
        if kind is Exception or (kind is not None and kind.__name__ == "PanicException"):
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self._what}: {reason}") from error


def _silence(descriptor: int) -> int | None:
    """Redirect a descriptor to /dev/null; returns a copy of it, None if it is closed."""
    try:
        copy = os.dup(descriptor)
    except OSError:
        return None
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
    return copy
