"""The launcher's command line, and the command of every process made from it."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from seq1f1b_jax.config import UserError
from seq1f1b_jax.distributed.processes import NAMES

MAX_PROCESSES = 1024
NO_COMMAND = "no command; name it behind --, as in --processes 2 -- train.py"
EPILOG = """\
example: python -m seq1f1b_jax.launch --processes 2 --restarts 3 -- train.py --mesh.pipe 4

Ctrl-C, SIGTERM and SIGHUP (a terminal that closes) reach every process: the run finishes its step,
saves and ends with 0; a second Ctrl-C kills. When a process dies, one line names it and the others
are ended. Exit status: that of the process that died first, 128 + N for signal N; 2 for bad input.
A set is started again after a signal, a stall (75) or a lost process (76), never after 2."""


@dataclass(frozen=True)
class Options:
    """What was requested.

    Attributes:
      processes: how many processes.
      restarts: how often the whole set may be started again.
      grace_seconds: what the others have to end after one has died.
      log_dir: folder of every process' whole output; None: none is kept.
      command: the program and its arguments.
    """

    processes: int
    restarts: int
    grace_seconds: float
    log_dir: str | None
    command: tuple[str, ...]


class Parser(argparse.ArgumentParser):
    """Reports bad input as the rest of the program does: by a `UserError`, in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise it, instead of printing and ending the process."""
        raise UserError(f"{message}; see {self.prog} --help")


def parser() -> argparse.ArgumentParser:
    """The parser of what is before `--`."""
    made = Parser(
        prog="python -m seq1f1b_jax.launch",
        usage="%(prog)s --processes N [--restarts N] [--log-dir D] [--grace S] -- train.py ...",
        description="Start the processes of a run on this machine, on the loopback address.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    made.add_argument("--processes", type=int, required=True, help="how many processes to start")
    made.add_argument(
        "--restarts", type=int, default=0,
        help="start the whole set again up to N times after a death that this can cure; default 0",
    )  # fmt: skip
    made.add_argument("--log-dir", help="keep each process' whole output in D/process-I.log")
    made.add_argument(
        "--grace", type=float, default=20.0,
        help="seconds for the others to end after one has died, before they are killed; default 20",
    )  # fmt: skip
    return made


def parse(arguments: Sequence[str]) -> Options:
    """Read the launcher's command line.

    Args:
      arguments: without the program's name; the command is behind the first `--`.

    Raises:
      UserError: bad input, in one line.
      SystemExit: `--help` was given, and printed.

    Example:
      >>> parse(["--processes", "2", "--", "train.py", "--mesh.pipe", "2"]).command
      ('train.py', '--mesh.pipe', '2')
    """
    before, command = list(arguments), ()
    if "--" in before:
        cut = before.index("--")
        before, command = before[:cut], tuple(before[cut + 1 :])
    elif not {"-h", "--help"} & set(before):
        raise UserError(NO_COMMAND)
    given = parser().parse_args(before)
    options = Options(given.processes, given.restarts, given.grace, given.log_dir, command)
    _check(options)
    return options


def _check(options: Options) -> None:
    if not options.command:
        raise UserError(NO_COMMAND)
    if not 1 <= options.processes <= MAX_PROCESSES:
        raise UserError(
            f"--processes {options.processes}: all run on this machine; use 1 to {MAX_PROCESSES}"
        )
    if options.restarts < 0:
        raise UserError(f"--restarts {options.restarts}: must not be negative; use 0 or more")
    if not 0 <= options.grace_seconds < float("inf"):
        raise UserError(
            f"--grace {options.grace_seconds}: must be a finite number of seconds; use 0 or more"
        )
    if options.log_dir == "":
        raise UserError("--log-dir is empty; name a folder, or leave it out")
    for name in NAMES:
        if setting(options.command, f"distributed.{name}") is not None:
            raise UserError(
                f"--distributed.{name} is what the launcher sets itself; leave it out behind --"
            )
    check_resumes(options.command, restarts=options.restarts)


def check_resumes(command: Sequence[str], *, restarts: int) -> None:
    """Refuse a command that would start over at every restart.

    Raises:
      UserError: it would.
    """
    if restarts and setting(command, "train.resume") == "never":
        raise UserError(
            "--train.resume never with --restarts would start over at every restart; set another "
            "--train.output_dir instead"
        )


def setting(command: Sequence[str], name: str) -> str | None:
    """The last value of `--name VALUE` or `--name=VALUE` in a command line, or None.

    Example:
      >>> setting(["train.py", "--a.b=1", "--a.b", "2"], "a.b")
      '2'
    """
    found = None
    for index, token in enumerate(command):
        if token.startswith(f"--{name}="):
            found = token.partition("=")[2]
        elif token == f"--{name}":
            found = command[index + 1] if index + 1 < len(command) else ""
    return found


def command_of(command: Sequence[str], *, index: int, count: int, port: int) -> list[str]:
    """What one process runs.

    Args:
      command: a Python file, which this Python runs, or any program; then its arguments.
      index: which process it is.
      count: how many there are.
      port: of process 0, on the loopback address.

    Raises:
      UserError: there is no such Python file.
    """
    program = list(command)
    if program[0].endswith(".py"):
        if not os.path.isfile(program[0]):
            raise UserError(f"{program[0]} does not exist; start in its folder or name its path")
        program = [sys.executable, "-u", *program]  # a pipe would be written to by the block
    values = (f"127.0.0.1:{port}", str(count), str(index))
    settings = zip(NAMES, values, strict=True)
    return program + [part for key, text in settings for part in (f"--distributed.{key}", text)]
