"""One run in several processes of this machine, each with virtual devices: the real `train.py`."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import jax

import train
from tests.run.tiny import command_line, compile_quickly, num_steps

DEADLINE_SECONDS = 240
PATIENCE = {"distributed__initialization_timeout": 60, "distributed__heartbeat_timeout": 10}


def free_address() -> str:
    """A port of the loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _process(cache, arguments, log, limit, patch) -> None:
    with _opened(log, limited=limit is not None) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    compile_quickly(cache)
    if limit is not None:
        _limit_files(limit)
    if patch is not None:
        patch()
    sys.exit(train.main(arguments))


@contextmanager
def _opened(log, *, limited):
    """Where the output goes; through a pipe where the size of files will be limited."""
    if not limited:
        with open(log, "w", encoding="utf-8") as file:
            yield file
        return
    with open(log, "w", encoding="utf-8") as file:
        cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
    yield cat.stdin
    cat.stdin.close()


def _limit_files(num_bytes: int) -> None:
    """Writing beyond a file's first bytes fails from now on, as on a full disk (EFBIG)."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def not_sharing() -> None:
    """As if `train.output_dir` had one name on hosts that do not share it: for `patches`."""
    from seq1f1b_jax.host import lock
    from seq1f1b_jax.training import job, main

    job.settings_of = lambda config: {}
    main.check_shared = partial(lock.check_shared, seconds=1.0)


def with_64_bits() -> None:
    """As if `JAX_ENABLE_X64` had been set on this host: for `patches`."""
    jax.config.update("jax_enable_x64", True)


class Processes:
    """A run in `count` processes; all are ended when the block ends.

    Args:
      cache: of compiled programs, shared by all runs of a session.
      count: processes; they share the mesh's devices evenly.
      folder: of the run; the logs lie beside it.
      source: its text.
      own: settings of single processes, by index.
      command: of the command line.
      limits: bytes that files of a process may have, by index.
      patches: functions of modules that processes call first, by index.
      changes: settings of all, `__` for the dot.
    """

    def __init__(
        self, cache, count, folder, source, *, own=None, command=(), limits=None, patches=None,
        **changes,
    ):
        context = multiprocessing.get_context("forkserver")
        used = ("seq1f1b_jax.training.main", "seq1f1b_jax.inference.generate")
        context.set_forkserver_preload([__name__, *used])
        self.folder = Path(folder)
        self._end = time.monotonic() + DEADLINE_SECONDS
        address = free_address()
        self.logs, self.all = [], []
        for index in range(count):
            settings = PATIENCE | changes | (own or {}).get(index, {})
            if count > 1:
                settings |= {
                    "distributed__coordinator": address, "distributed__num_processes": count,
                    "distributed__process_id": index,
                }
            log = self.folder.with_name(f"{self.folder.name}.{len(os.listdir(folder.parent))}.log")
            log.touch()
            self.logs.append(log)
            arguments = [*command, *command_line(self.folder, source, **settings)]
            given = (cache, arguments, log, (limits or {}).get(index), (patches or {}).get(index))
            self.all.append(context.Process(target=_process, args=given))
            self.all[-1].start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.all:
            process.kill()
            process.join()

    def end(self, index: int | None = None, number: int | None = None) -> list[int]:
        """Send one of them a signal, wait for all; their exit statuses, negative for signals."""
        if number is not None:
            os.kill(self.all[index].pid, number)
        for process in self.all:
            process.join(max(0, self._end - time.monotonic()))
            assert process.exitcode is not None, f"it does not end\n{self.told()}"
        return [process.exitcode for process in self.all]

    def wait_for_step(self, step: int) -> None:
        """Return once `step` steps are in the metrics."""
        while num_steps(self.folder) < step:
            running = all(process.is_alive() for process in self.all)
            assert running and time.monotonic() < self._end, self.told()
            time.sleep(0.003)

    def told(self, index: int | None = None) -> str:
        """What they wrote so far, or one of them, without the lines of Gloo."""
        if index is None:
            return "\n".join(f"---- {i}\n{self.told(i)}" for i in range(len(self.all)))
        lines = self.logs[index].read_text(encoding="utf-8").splitlines()
        return "\n".join(line for line in lines if not line.startswith("[Gloo]"))


@contextmanager
def processes(cache, count, folder, source, **settings):
    """The same as `Processes`, for one that succeeds."""
    with Processes(cache, count, folder, source, **settings) as run:
        assert run.end() == [0] * count, run.told()
        yield run
