"""Commands one after another in one clone."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tests.journey.clone import Clone
from tests.journey.pages import DOWNLOADS, NEEDS, Command, commands


class End(NamedTuple):
    """What became of a command; `output` is all that it wrote."""

    command: Command
    status: int
    seconds: float
    output: str


def chosen(found: Sequence[Command], *, small: bool) -> list[Command]:
    """The commands that are run here."""
    left_out = (NEEDS, DOWNLOADS) if small else (NEEDS,)
    return [command for command in found if not command.marked(*left_out)]


def journey(
    clone: Clone, found: Sequence[Command] | None = None, *, small: bool,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[End]:
    """Type the commands into the clone, in order; those of all pages unless given."""
    for command in chosen(commands() if found is None else found, small=small):
        began = time.monotonic()
        done = clone.run(command)
        end = End(command, done.returncode, time.monotonic() - began, done.stdout + done.stderr)
        say(f"{end.seconds:7.1f} s  status {end.status}  {' '.join(command.text.split())}")
        yield end
