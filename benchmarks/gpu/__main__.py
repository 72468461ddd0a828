"""One GPU, one stage: correctness, speed against plain autodiff, memory, and what a tick costs.

    python -m benchmarks.gpu            about 8 minutes on an H100, compilation included
    python -m benchmarks.gpu --toy      the same program at toy sizes, on any machine

Sections are independent: if one fails, its error is printed and the next one runs. The last line is
JSON; with --out FILE it is also written to that file after every section.
"""

import argparse
import os
import time

from benchmarks.gpu.run import FULL, TOY, Run


def main(arguments=None) -> int:
    """Run all sections; the exit status is 0 when none failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--toy", action="store_true", help="toy sizes: does the script work?")
    parser.add_argument("--limit-seconds", type=float, default=450.0,
                        help="no new measurement starts after this")
    parser.add_argument("--out", help="file for the figures, written after every section")
    options = parser.parse_args(arguments)
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.93")  # read when the backend starts
    deadline = time.monotonic() + options.limit_seconds
    run = Run(TOY if options.toy else FULL, deadline, out=options.out)
    from benchmarks.gpu import sections, speed  # JAX starts after the line above

    cases = run.section("compile speed cases", speed.submit) or {}
    run.section("exactness", sections.exactness)
    run.section("wait for compilation", lambda run: speed.wait(run, cases))
    run.section("loop_checks", sections.loop_checks)
    run.section("attention", sections.attention)
    run.section("small_actions", sections.small_actions)
    run.section("speed", lambda run: speed.measure(run, cases))
    run.finish()
    return 1 if run.failed else 0


if __name__ == "__main__":
    status = main()
    os._exit(status)  # without waiting for threads that still compile
