"""What is refused, in the user's words: one line, paths as they were typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from traceback import walk_tb
from types import MappingProxyType

from seq1f1b_jax.config import UserError
from seq1f1b_jax.paths import as_typed

OURS = ("seq1f1b_jax", "__main__", "train")
XLA_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
NOTHING_TYPED: Mapping[str, str] = MappingProxyType({})


@contextmanager
def refusals(typed: Mapping[str, str] = NOTHING_TYPED) -> Iterator[None]:
    """Raise what a user can fix as a `UserError` of one line; let defects pass as they are.

    For the user are a ValueError that our own code raised, the system's refusal of a file at or
    below a path that was typed, and memory that does not suffice.

    Args:
      typed: what was typed for each absolute path.

    Raises:
      UserError: in the user's words.

    Example:
      >>> from seq1f1b_jax.cli.refusals import refusals
      >>> from seq1f1b_jax.config import UserError
      >>> with refusals({"/home/me/runs": "runs"}):
      ...     raise UserError("/home/me/runs is in use")
      Traceback (most recent call last):
      seq1f1b_jax.config.UserError: runs is in use
    """
    try:
        yield
    except UserError as error:
        raise type(error)(as_typed(str(error), typed)) from error
    except ValueError as error:
        *_, (frame, _) = walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] not in OURS:
            raise
        raise UserError(as_typed(str(error), typed)) from error
    except MemoryError as error:
        raise _too_large(error) from error
    except RuntimeError as error:
        if not str(error).startswith(XLA_OUT_OF_MEMORY):
            raise
        raise _too_large(error) from error
    except OSError as error:
        path = str(error.filename)
        if not any(path == base or path.startswith(f"{base}/") for base in typed):
            raise
        raise UserError(as_typed(f"cannot use {path} ({error.strerror})", typed)) from error


def _too_large(error: Exception) -> UserError:
    reason = (str(error).splitlines() or ["no reason given"])[0]
    return UserError(
        f"the memory does not suffice ({reason}); lower data.seq_len, data.microbatch_size or the "
        "sizes in model.*, raise schedule.num_chunks, or use more devices"
    )
