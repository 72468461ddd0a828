"""Wall time of compiled programs on a device."""

import time
from collections.abc import Callable

import jax

from benchmarks.common.report import median_and_spread


def time_calls(
    call: Callable, *arguments, repeats: int, case_seconds: float
) -> dict[str, float]:
    """Median wall seconds of `call(*arguments)`, waiting for each result.

    Two warm-up calls, or one if it takes over two seconds. Stops after `case_seconds`, but not
    before three calls.
    """
    for _ in range(2):
        start = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        if time.perf_counter() - start > 2:
            break
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or (
        len(times) < repeats and time.perf_counter() - began < case_seconds
    ):
        start = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        times.append(time.perf_counter() - start)
    median, spread = median_and_spread(times)
    return {"seconds": median, "spread": spread, "calls": len(times)}
