"""GPUs: numerics first, then speed of attention and steps, memory, and what a tick costs.

    python -m benchmarks.gpu            at most about 8 minutes on an H100, compilation included
    python -m benchmarks.gpu --toy      the same program at toy sizes, on any machine

Three phases; each compiles its programs on threads and measures when the device is quiet. Sections
are independent: if one fails, or a case of it, the error is printed and the others run. The last
line is JSON; with --out FILE it is also written to that file after every section. Its keys, in the
order in which they are measured:

    numerics, numerics_worst, auto      each backend against xla_dense; odd lengths, NaN, same bits
    attention, matmul_tflops            TFLOP/s, forward and backward, and cuDNN's workspace
    loop_checks, microseconds_per_check what a read of a loop's condition costs
    steps                               a 1b-class step against plain value_and_grad, 32k and 8k
    stage                               F and B of every chunk on one stage
    kernels_in_loops                    attention in 0/1 loops, and in conditional graphs
    several_gpus, seq1f1b_over_1f1b, all_neighbours_over_parity
    presets                             four unrolled layers with each preset of XLA flags
    exactness, exactness_worst_leaf     float32 steps against jax.grad
    small_actions                       ticks no longer than their launch
    errors, failed, late_programs, section_seconds
"""

import argparse
import math
import os
import time

from benchmarks.gpu.run import Run
from benchmarks.gpu.sizes import FULL, TOY

LIMIT_SECONDS = 420

RESERVE_SECONDS = 60
"""Of the limit, left for measuring when a phase waits for its programs."""

SHARES = (0.3, 0.7, 1.0)
"""Of the seconds left without the reserve: the most that each phase waits for its programs."""


def main(arguments=None) -> int:
    """Run all sections; the exit status is 0 when none failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--toy", action="store_true", help="toy sizes: does the script work?")
    parser.add_argument(
        "--limit-seconds", type=float,
        help="no new measurement starts after this; default 420, none with --toy",
    )  # fmt: skip
    parser.add_argument("--out", help="file for the figures, written after every section")
    options = parser.parse_args(arguments)
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.93")  # read when the backend starts
    limit = options.limit_seconds or (math.inf if options.toy else LIMIT_SECONDS)
    deadline = time.monotonic() + limit
    run = Run(TOY if options.toy else FULL, deadline, out=options.out)
    for share, sections in zip(SHARES, _phases(), strict=True):
        _phase(run, sections, share)
    run.finish()
    return 1 if run.failed else 0


def _phases() -> list[dict]:
    """Of every section, what compiles its programs, and what measures them."""
    from benchmarks.gpu import attention, executor, loops, numerics, several, stage, steps

    return [
        {
            "numerics": (numerics.submit, numerics.measure),
            "attention": (attention.submit, attention.measure),
            "loop_checks": (loops.submit_checks, loops.measure_checks),
        },
        {
            "steps": (steps.submit, steps.measure),
            "stage": (stage.submit, stage.measure),
        },
        {
            "kernels_in_loops": (loops.submit_kernels, loops.measure_kernels),
            "several_gpus": (several.submit, several.measure),
            "presets": (steps.submit_presets, steps.measure_presets),
            "exactness": (executor.submit_exact, executor.measure_exact),
            "small_actions": (executor.submit_small, executor.measure_small),
        },
    ]


def _phase(run: Run, sections: dict, share: float) -> None:
    submitted = {}
    for name, (submit, _) in sections.items():
        if run.seconds_left() > RESERVE_SECONDS:
            submitted[name] = run.section(f"compile {name}", lambda run, s=submit: (s(run),))
        else:
            run.fail(name, TimeoutError("past --limit-seconds"))
    seconds = share * (run.seconds_left() - RESERVE_SECONDS)
    late = run.section(f"wait for {', '.join(sections)}", lambda run: run.programs.wait(seconds))
    if late:  # they disturb the timings, and may still come in time
        run.values.setdefault("late_programs", []).extend(late)
    for name, (_, measure) in sections.items():
        if found := submitted.get(name):
            more = () if found[0] is None else found
            run.section(name, lambda run, m=measure, a=more: m(run, *a))


if __name__ == "__main__":
    status = main()
    os._exit(status)  # without waiting for threads that still compile
