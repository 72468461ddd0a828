"""What the commands that measure on the device at hand share: `plan profile` and `plan sweep`.

They take options of their own and the settings of `train.py`, and import JAX once the environment
is set.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import TypeVar

from seq1f1b_jax.cli.environment import choose_environment
from seq1f1b_jax.cli.parse import parse
from seq1f1b_jax.cli.recipes import packaged_recipes
from seq1f1b_jax.cli.refusals import refusals
from seq1f1b_jax.config import Config, UserError

Options = TypeVar("Options")


class OptionParser(argparse.ArgumentParser):
    """A parser whose errors are those of bad input."""

    def error(self, message: str) -> None:
        """Refuse the command line."""
        raise UserError(message)


def measure(
    name: str,
    arguments: Sequence[str],
    *,
    parse_options: Callable[[Sequence[str]], tuple[Options, list[str]]],
    run: Callable[[Config, Options], int],
    typed: Callable[[Options], Mapping[str, str]] = lambda options: {},
    interrupted: str,
) -> int:
    """Run a command line.

    Args:
      name: of the command.
      arguments: its options, and the settings of `train.py`.
      parse_options: the former, and what is left.
      run: the work.
      typed: what was typed for each absolute path among the options.
      interrupted: what to say after a Ctrl-C.

    Returns:
      The exit status: 2 after bad input, reported in one line on stderr; 130 after a Ctrl-C.
    """
    try:
        with refusals():
            options, rest = parse_options(arguments)
            invocation = parse(rest, recipes=packaged_recipes())
            if invocation.command != "train" or invocation.print_config:
                raise UserError(
                    f"{name} takes the settings of train.py, and none of its commands; see "
                    f"python -m seq1f1b_jax.plan {name} --help"
                )
        with refusals({**invocation.typed, **typed(options)}):
            return run(invocation.config, options)
    except UserError as error:
        return _end(f"error: {error}", status=2)
    except KeyboardInterrupt:
        return _end(f"\ninterrupted; {interrupted}", status=130)


def choose_devices(config: Config, environment: MutableMapping[str, str]) -> None:
    """Set what JAX reads at import, as a run of one process does."""
    chosen = choose_environment(config, 1, environment)
    environment.update(chosen.variables)
    for line in chosen.messages:
        print(line, flush=True)


def _end(message: str, *, status: int) -> int:
    with suppress(OSError):  # there may be no reader any more
        print(message, file=sys.stderr, flush=True)
    return status
