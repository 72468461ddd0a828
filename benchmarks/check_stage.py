"""Time to check the rules of a stage, for models of any size: no parameters are created.

    python -m benchmarks.check_stage

In CPU seconds, so that other work on the machine does not count. Each is checked twice: the first
time JAX also traces what this process has not used before, such as its own initializers.
"""

import json
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from seq1f1b_jax.models import PRESETS, build_stage, num_params
from seq1f1b_jax.pipeline import Stage
from seq1f1b_jax.pipeline.checks.check_stage import check_rules


def seconds(run: Callable[[], None]) -> float:
    """Processor time of this process; the check runs in one thread."""
    began = time.process_time()
    run()
    return time.process_time() - began


def measure(stage: Stage) -> tuple[float, float]:
    """Seconds of the first check and of the second, without the memory of `check_stage`."""
    first, second = (seconds(lambda: check_rules(stage, jnp.dtype("bfloat16"))) for _ in range(2))
    return first, second


def main() -> None:
    """Print a table and a line of JSON."""
    jax.devices()
    results = {}
    print(f"{'model':<16}{'parameters':>16}  first, s  second, s")
    for family, presets in PRESETS.items():
        for preset in presets:
            stage = build_stage(family, preset=preset)
            first, second = measure(stage)
            results[f"{family} {preset}"] = [round(first, 3), round(second, 3)]
            row = f"{family + ' ' + preset:<16}{num_params(stage):>16,}"
            print(f"{row}{first:>10.3f}{second:>11.3f}")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
