"""Wall time of compiled programs on a device."""

import time
from collections.abc import Callable

import jax

from benchmarks.common.report import median_and_spread

QUEUED_SECONDS = 0.02
"""Short calls are queued until a timing lasts so long: their launch is hidden, as in a step."""


def time_calls(
    call: Callable, *arguments, repeats: int, case_seconds: float, queue: bool = False
) -> dict[str, float]:
    """Median wall seconds of `call(*arguments)`, waiting for each result.

    Two warm-up calls, or one if it takes over two seconds. Stops after `case_seconds`, but not
    before three timings.

    Args:
      call: a compiled program.
      arguments: of the program.
      repeats: timings.
      case_seconds: see above.
      queue: wait for several calls at once, if they are short.
    """
    count, last = 1, 0.0
    for _ in range(2):
        last = _seconds(call, arguments, 1)
        if last > 2:
            break
    if queue:
        count = max(1, min(100, round(QUEUED_SECONDS / last)))
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or (len(times) < repeats and time.perf_counter() - began < case_seconds):
        times.append(_seconds(call, arguments, count) / count)
    median, spread = median_and_spread(times)
    return {"seconds": median, "spread": spread, "calls": len(times) * count}


def _seconds(call: Callable, arguments, count: int) -> float:
    start = time.perf_counter()
    result = None
    for _ in range(count):
        result = call(*arguments)
    jax.block_until_ready(result)
    return time.perf_counter() - start
