"""Programs, compiled on a few threads; nothing is timed while they compile.

XLA tunes kernels on the device when it compiles, so timings beside it would be wrong.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple

from seq1f1b_jax.cli.xla_presets import PRESETS

THREADS = 8

Option = str | bool

RECORDED = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CONDITIONAL"
"""What XLA records into command buffers by default in jax 0.10.2. An option of one program replaces
the list; the `+` of XLA_FLAGS, which adds to it, is refused."""


class Compiled(NamedTuple):
    """A program and the seconds that tracing and compiling took, beside others."""

    call: Any
    seconds: float


class Programs:
    """Programs by name."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1))
        self._futures: dict[str, Future[Compiled]] = {}
        self._new: list[str] = []

    def submit(
        self, name: str, lower: Callable[[], Any], *, options: Mapping[str, Option] | None = None
    ) -> None:
        """Begin to compile.

        Args:
          name: under which `get` finds it.
          lower: traces and lowers.
          options: XLA flags of this program alone.
        """
        self._new.append(name)
        self._futures[name] = self._pool.submit(_compile, lower, dict(options or {}) or None)

    def wait(self, seconds: float) -> list[str]:
        """Wait for those submitted since the last call, at most some seconds; returns the late."""
        names, self._new = self._new, []
        timeout = min(max(seconds, 0), threading.TIMEOUT_MAX)
        late = wait([self._futures[name] for name in names], timeout=timeout).not_done
        return [name for name in names if self._futures[name] in late]

    def get(self, name: str) -> Compiled:
        """The program, or the error that its compilation raised.

        Raises:
          TimeoutError: it still compiles.
        """
        future = self._futures[name]
        if not future.done():
            future.cancel()
            raise TimeoutError("still compiling")
        return future.result()


def preset_options(name: str) -> dict[str, Option]:
    """The flags of `--xla.preset NAME` as options of one program.

    Example:
      >>> preset_options("deterministic")
      {'xla_gpu_deterministic_ops': True}
      >>> preset_options("command_buffers")["xla_gpu_enable_command_buffer"][-17:]
      'CONDITIONAL,WHILE'
    """
    return {flag: _option(value) for flag, value in PRESETS[name].items()}


def _option(value: str) -> Option:
    if value in ("true", "false"):
        return value == "true"
    return value.replace("+", f"{RECORDED},")


def _compile(lower: Callable[[], Any], options: dict[str, Option] | None) -> Compiled:
    start = time.perf_counter()
    call = lower().compile(compiler_options=options)
    return Compiled(call, time.perf_counter() - start)
