"""Run one function in several fresh processes, each with one CPU device, joined over loopback.

    results = run_processes("benchmarks.timeline:worker", {"num_rounds": 5}, num_processes=4)

Every process joins `jax.distributed`, unless it is alone, and then calls the function;
`jax.devices()` there returns the devices of all processes, and collectives use Gloo. Or it joins
torch's default group, over Gloo as well. A process with one device computes with one thread, pinned
to its own core if there are enough. If one fails, all are killed and the error shows its last
lines. The coordinator listens on 127.0.0.1 only; Gloo on the address of the machine's host name.
"""

import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"
POLL_SECONDS = 0.02
TAIL_LINES = 30

KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_ARENA_MAX": "1",
}
"""Makes glibc keep freed memory. Otherwise every step returns its buffers to the system and faults
them in again page by page, which takes up to a fifth of its CPU time, and varies.
"""


class ProcessError(RuntimeError):
    """A process failed or took too long; the message holds the last lines that it wrote."""


def run_processes(
    function: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    num_processes: int,
    timeout_seconds: float = 600,
    keep_memory: bool = True,
    num_devices: int = 1,
    framework: str = "jax",
) -> list[Any]:
    """Call a function in `num_processes` new processes and wait for all.

    Args:
      function: `module:name`, importable from the root of the checkout.
      arguments: keyword arguments that JSON can hold; the same for every process.
      num_processes: number of processes.
      timeout_seconds: after which all are killed.
      keep_memory: whether a process keeps what it frees (`KEEP_MEMORY`).
      num_devices: JAX's devices of a process; with several, it is not pinned to a core.
      framework: which the processes join, `jax` or `torch`.

    Returns:
      Return values of processes 0, 1, ..., after a round trip through JSON.

    Raises:
      ProcessError: a process failed, or they took too long.

    Example:
      >>> run_processes("benchmarks.common.processes:count_devices", num_processes=2)
      [2, 2]
    """
    cores = one_core_each(num_processes) if num_devices == 1 else ()
    with tempfile.TemporaryDirectory() as name:
        folder, coordinator = Path(name), f"{LOOPBACK}:{_free_port()}"
        running: list[subprocess.Popen] = []
        try:
            for rank in range(num_processes):
                spec = {
                    "function": function,
                    "arguments": dict(arguments or {}),
                    "coordinator": coordinator,
                    "num_processes": num_processes,
                    "rank": rank,
                    "core": cores[rank] if cores else None,
                    "framework": framework,
                    "result": str(folder / f"result{rank}.json"),
                }
                more = {"JAX_NUM_CPU_DEVICES": str(num_devices)}
                more |= KEEP_MEMORY if keep_memory else {}
                running.append(_start(spec, log=folder / f"log{rank}.txt", more=more))
            _wait(running, folder, timeout_seconds=timeout_seconds)
        finally:
            for process in running:
                process.kill()
                process.wait()
        return [
            json.loads((folder / f"result{rank}.json").read_text(encoding="utf-8"))
            for rank in range(num_processes)
        ]


def one_core_each(num_processes: int) -> tuple[int, ...]:
    """A core for every process; empty if there are too few to pin them."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    cores = sorted(os.sched_getaffinity(0))
    return tuple(cores[:num_processes]) if len(cores) >= num_processes else ()


def count_devices() -> int:
    """Devices of all processes: a minimal function to run."""
    import jax

    return len(jax.devices())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def _start(
    spec: Mapping[str, Any], *, log: Path, more: Mapping[str, str]
) -> subprocess.Popen:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        **more,
    }
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.common.processes", json.dumps(spec)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def _wait(running: Sequence[subprocess.Popen], folder: Path, *, timeout_seconds: float) -> None:
    """Return when all have succeeded; raise when one has failed, or at the time limit."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        states = [process.poll() for process in running]
        if any(states):  # several, if the first to fail took others down
            raise ProcessError(
                "\n".join(
                    f"process {rank} of {len(running)} ended with status {status}, so all were"
                    f" ended; its last lines:\n{_tail(folder, rank)}"
                    for rank, status in enumerate(states)
                    if status
                )
            )
        if None not in states:
            return
        if time.monotonic() > deadline:
            unfinished = [rank for rank, status in enumerate(states) if status is None]
            raise ProcessError(
                f"processes {unfinished} of {len(running)} were still running after"
                f" timeout_seconds={timeout_seconds:g}, so all were ended; give them more time, or"
                f" see where they wait; last lines of process {unfinished[0]}:\n"
                f"{_tail(folder, unfinished[0])}"
            )
        time.sleep(POLL_SECONDS)


def _tail(folder: Path, rank: int) -> str:
    text = (folder / f"log{rank}.txt").read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-TAIL_LINES:])


def _run_one(spec: Mapping[str, Any]) -> None:
    if spec["core"] is not None:  # before JAX starts its threads, one per core
        os.sched_setaffinity(0, {spec["core"]})
    leave = {"jax": _join_jax, "torch": _join_torch}[spec["framework"]](spec)
    module, name = spec["function"].split(":")
    result = getattr(importlib.import_module(module), name)(**spec["arguments"])
    Path(spec["result"]).write_text(json.dumps(result), encoding="utf-8")
    leave()


def _join_jax(spec: Mapping[str, Any]) -> Callable[[], None]:
    if spec["num_processes"] == 1:
        return lambda: None  # Gloo would carry what its own devices exchange
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        spec["coordinator"],
        num_processes=spec["num_processes"],
        process_id=spec["rank"],
        coordinator_bind_address=spec["coordinator"],
        cluster_detection_method="deactivate",
    )
    return jax.distributed.shutdown


def _join_torch(spec: Mapping[str, Any]) -> Callable[[], None]:
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"tcp://{spec['coordinator']}",
        world_size=spec["num_processes"],
        rank=spec["rank"],
    )
    return torch.distributed.destroy_process_group


if __name__ == "__main__":
    try:
        _run_one(json.loads(sys.argv[1]))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # a plain exit would wait for the others, who wait for this one
