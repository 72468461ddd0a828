"""The tokens of a command line: the command, words, recipes, and the settings that are left."""

from __future__ import annotations

from collections.abc import Sequence

from seq1f1b_jax.cli.options import COMMANDS
from seq1f1b_jax.config import UserError

BARE_FLAGS = ("-h", "--help", "--print_config", "--trace", "--chat", "--adapter")
SHORTHANDS = {
    "--trace": "--train.trace=true", "--chat": "--chat=true", "--adapter": "--adapter=true"
}
"""Flags that are short for a setting and its value."""


def split_command(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command and the rest.

    Example:
      >>> split_command(["--config", "train", "evaluate"])
      ('evaluate', ['--config', 'train'])
    """
    for index, token in enumerate(arguments):
        if token in COMMANDS and not _is_value(arguments, index):
            return token, [*arguments[:index], *arguments[index + 1 :]]
    return "train", list(arguments)


def split_words(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words that are neither options nor values of these, and all other tokens.

    Example:
      >>> split_words(["runs/a", "--to", "page.html", "runs/b"])
      (['runs/a', 'runs/b'], ['--to', 'page.html'])
    """
    places = range(len(arguments))
    free = [n for n in places if arguments[n][:1] != "-" and not _is_value(arguments, n)]
    return [arguments[n] for n in free], [arguments[n] for n in places if n not in free]


def split_config(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Values of `--config`, and all other tokens.

    Raises:
      UserError: one has no value.
    """
    names: list[str] = []
    rest: list[str] = []
    tokens = iter(arguments)
    for token in tokens:
        if token == "--config":
            name = next(tokens, None)
            if name is None or name.startswith("--"):
                raise UserError("--config needs a value: a YAML file or the name of a recipe")
            names.append(name)
        elif token.startswith("--config="):
            names.append(token.removeprefix("--config="))
        else:
            rest.append(token)
    return names, rest


def _is_value(arguments: Sequence[str], index: int) -> bool:
    """Whether a token is the value of the option before it."""
    before = arguments[index - 1] if index else "--x=y"
    return before.startswith("-") and "=" not in before and before not in BARE_FLAGS
