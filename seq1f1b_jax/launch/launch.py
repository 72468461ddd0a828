"""Start the set, and start it again as long as that helps."""

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from io import RawIOBase
from pathlib import Path

from seq1f1b_jax.config import UserError
from seq1f1b_jax.distributed.exits import LOST_PEER, STALLED, USER_ERROR
from seq1f1b_jax.launch.attempt import Attempt, Outcome
from seq1f1b_jax.launch.children import Hearers, started
from seq1f1b_jax.launch.death import can_be_mended, exit_status
from seq1f1b_jax.launch.folder import finished_steps, who_is_behind
from seq1f1b_jax.launch.gpus import shares
from seq1f1b_jax.launch.options import Options, command_of, setting
from seq1f1b_jax.launch.output import Console, Filter, Marked, PassThrough, ToFile
from seq1f1b_jax.launch.wakeups import listening
from seq1f1b_jax.paths import one_line, resolve

PATIENCE = 3
"""Restarts in a row that may finish no new step; then the cause is not chance."""
MIN_LIFETIME_SECONDS = 60.0
"""What counts as progress where the run's folder is not known."""


def launch(options: Options, environment: Mapping[str, str]) -> int:
    """Run the processes to their end.

    Args:
      options: what to run, how often.
      environment: that the processes inherit.

    Returns:
      The exit status: that of the process that died first in the last attempt, 128 + N for
      signal N; 0 if all ended well.

    Raises:
      UserError: the set cannot be started.
    """
    devices = shares(options.processes, options.command, environment)
    environments = [{**environment, **share} for share in devices]
    folder = _run_folder(options.command)
    progress, ports, console = Progress(folder), set(), Console()
    with listening() as reader, _logs(options) as logs:
        for number in range(options.restarts + 1):
            ports.add(port := _free_port(ports))
            _head_logs(logs, number, port, console)
            began = time.time()
            outcome = _attempt(options, environments, port, logs, reader, folder, console)
            idle = progress.idle_restarts(number, seconds=time.time() - began)
            verdict = _verdict(outcome, options.restarts, number, idle)
            if verdict:
                console.say(verdict)
            if not _again(outcome, options.restarts, number, idle):
                return exit_status(outcome.code)
    raise AssertionError("the last attempt returns")


def _attempt(
    options: Options, environments: Sequence[Mapping[str, str]], port: int,
    logs: Sequence[RawIOBase], reader: int, folder: Path | None, console: Console,
) -> Outcome:
    count = options.processes
    commands = [
        command_of(options.command, index=index, count=count, port=port) for index in range(count)
    ]

    def explain(code: int, since: float) -> str | None:
        if folder is None or count == 1 or code not in (STALLED, LOST_PEER):
            return None
        return who_is_behind(folder, count, since=since)

    began = time.time()
    with started(commands, environments, _hearers(logs, console), reader) as children:
        attempt = Attempt(
            children, grace_seconds=options.grace_seconds, say=console.say,
            explain=partial(explain, since=began),
        )
        return attempt.run(reader)


class Progress:
    """Counts the restarts in a row that brought the run no further.

    Args:
      folder: of the run, where its metrics and checkpoints are; None: not known.
    """

    def __init__(self, folder: Path | None):
        self._folder = folder
        self._idle = 0
        self._most = 0 if folder is None else finished_steps(folder)

    def idle_restarts(self, number: int, *, seconds: float) -> int:
        """To be called after every attempt.

        Args:
          number: of the attempt; 0 is the first start, which is no restart.
          seconds: how long it lived.
        """
        if self._folder is None:
            moved = seconds >= MIN_LIFETIME_SECONDS
        else:
            now = finished_steps(self._folder)
            moved, self._most = now > self._most, max(now, self._most)
        self._idle = 0 if moved or number == 0 else self._idle + 1
        return self._idle


def _again(outcome: Outcome, restarts: int, number: int, idle: int) -> bool:
    mended = outcome.code != 0 and not outcome.stopped and can_be_mended(outcome.code)
    return mended and number < restarts and idle < PATIENCE


def _verdict(outcome: Outcome, restarts: int, number: int, idle: int) -> str | None:
    """What happens now, in one line that repeats the cause: much may be printed between the two."""
    if outcome.cause is None or outcome.code == USER_ERROR:
        return None
    if outcome.stopped:
        return f"stopped; {outcome.cause}"
    if _again(outcome, restarts, number, idle):
        return f"restart {number + 1} of {restarts}: {outcome.cause}"
    if not can_be_mended(outcome.code):
        return f"ended: {outcome.cause}" + "; a restart would not cure that" * (restarts > 0)
    if idle >= PATIENCE and number < restarts:
        return f"giving up: {PATIENCE} restarts in a row finished no new step; {outcome.cause}"
    spent = f"; all {restarts} restarts are used up" if restarts else ""
    return f"ended: {outcome.cause}{spent}; the same command continues the run"


def _run_folder(command: Sequence[str]) -> Path | None:
    named = setting(command, "train.output_dir")
    return resolve(named) if named else None


def _free_port(used: set[int]) -> int:
    """A free port of the loopback address that no earlier attempt has used."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port not in used:
            return port


@contextmanager
def _logs(options: Options) -> Iterator[Sequence[RawIOBase]]:
    """A file for each process, appended to; none without `--log-dir`."""
    with ExitStack() as stack:
        try:
            logs = [stack.enter_context(path.open("ab", 0)) for path in _log_paths(options)]
        except OSError as error:
            raise UserError(
                f"--log-dir {one_line(options.log_dir)} cannot be written ({error.strerror}); name "
                "a folder that this user may write"
            ) from error
        yield logs


def _log_paths(options: Options) -> list[Path]:
    if options.log_dir is None:
        return []
    folder = resolve(options.log_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return [folder / f"process-{index}.log" for index in range(options.processes)]


def _head_logs(
    logs: Sequence[RawIOBase], number: int, port: int, console: Console
) -> None:
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    for log in logs:
        ToFile(log, console.say).feed(f"=== start {number + 1}, {now}, port {port}\n".encode())


def _hearers(logs: Sequence[RawIOBase], console: Console) -> Hearers:
    """Process 0 prints for all; of the others only errors are shown, marked with their number."""

    def of(index: int) -> tuple[list[Filter], list[Filter]]:
        out: list[Filter] = [ToFile(logs[index], console.say)] if logs else []
        err = list(out)
        if index == 0:
            through = PassThrough(console.err, console.refusals)
            return [*out, PassThrough(console.out)], [*err, through]
        mark = f"[process {index}] ".encode()
        return out, [*err, Marked(console.err, mark, console.refusals)]

    return of
