"""What the `tokenizers` library says about bad input, in one line."""

import os

from seq1f1b_jax.config import UserError

UNUSABLE = "holds no tokenizer that can be used"


class LibraryErrors:
    """Turn what the library raises about bad input into a `UserError`.

    That is a bare `Exception`; or a `PanicException` where its own code trips over the input, which
    is no `Exception`, and has no name to import it by. Of a panic the library prints a stack, too.

    Args:
      what: what went wrong; the library's reason is put behind it.
      quiet: whether nothing is heard on standard error meanwhile, in any thread.
    """

    def __init__(self, what: str, *, quiet: bool = False):
        self._what, self._quiet = what, quiet
        self._errors: int | None = None

    def __enter__(self) -> None:
        if self._quiet:
            self._errors = _lead_nowhere(2)

    def __exit__(self, kind: type | None, error: BaseException | None, _: object) -> None:
        if self._errors is not None:
            os.dup2(self._errors, 2)
            os.close(self._errors)
        if kind is Exception or (kind is not None and kind.__name__ == "PanicException"):
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{self._what}: {reason}") from error


def _lead_nowhere(descriptor: int) -> int | None:
    """Let what is written to a descriptor vanish; a copy of it, None where it is closed."""
    try:
        copy = os.dup(descriptor)
    except OSError:
        return None
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
    return copy
