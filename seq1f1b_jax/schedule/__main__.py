"""Print, draw, compare and search schedules.

    python -m seq1f1b_jax.schedule
    python -m seq1f1b_jax.schedule seq1f1b --stages 4 --microbatches 4 --chunks 2
    python -m seq1f1b_jax.schedule seq1f1b --stages 4 --microbatches 4 --compare zb-h1 --draw a.svg
    python -m seq1f1b_jax.schedule mine.csv --machine executor
    python -m seq1f1b_jax.schedule --search --stages 3 --microbatches 4 --memory 2 --save best.csv

Without a name it lists the schedules. Of a plan it shows the order of work and the course of time
as grids of letters, its figures next to their closed forms, what each machine makes of it, and with
`--seq-len` what the executor will allocate. NumPy and the standard library are enough, except for
`--draw`.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from seq1f1b_jax.schedule.command.comparison import comparison
from seq1f1b_jax.schedule.command.listing import listing
from seq1f1b_jax.schedule.command.options import check, parser
from seq1f1b_jax.schedule.command.outputs import draw
from seq1f1b_jax.schedule.command.report import buffers, report
from seq1f1b_jax.schedule.command.searching import SEARCHED, search
from seq1f1b_jax.schedule.command.subjects import first_subject, other_subjects
from seq1f1b_jax.schedule.plan_file import write_plan
from seq1f1b_jax.schedule.simulate import MACHINES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
      arguments: of the command line; those of the process unless given.

    Returns:
      The exit status: 0, or 2 after one line about bad input on standard error.
    """
    options = parser().parse_args(arguments)
    try:
        text = _text(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _text(options: argparse.Namespace) -> str:
    """Do what was asked for, and say what it gave."""
    check(options)
    if options.schedule is None and not options.search:
        return listing()
    if options.search:
        first, distances = search(options)
        machine, parts = options.machine or SEARCHED, [distances]
    else:
        first = first_subject(options)
        machine, parts = options.machine or MACHINES[0], []
    subjects = [first, *other_subjects(options, first)]
    parts.append(report(first, machine=machine))
    if options.seq_len is not None:
        parts.append(buffers(first.plan, seq_len=options.seq_len, block=options.block))
    if options.compare:
        parts.append(comparison(subjects, machine=machine))
    if options.save is not None:
        write_plan(first.plan, options.save)
        parts.append(f"plan: {options.save}")
    if options.draw is not None:
        draw(subjects, options.draw, machine=machine)
        parts.append(f"picture: {options.draw}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
