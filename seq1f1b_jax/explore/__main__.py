"""Print, draw, compare and search schedules.

    python -m seq1f1b_jax.explore
    python -m seq1f1b_jax.explore seq1f1b --ranks 4 --microbatches 4 --chunks 2
    python -m seq1f1b_jax.explore seq1f1b --ranks 4 --microbatches 4 --compare zb-h1 --draw a.svg
    python -m seq1f1b_jax.explore mine.csv --save for_torch.csv --format torch
    python -m seq1f1b_jax.explore --search --ranks 3 --microbatches 4 --memory 2 --save best.csv

Without a name it lists the schedules. Of a plan it shows the order of work and the timeline as
grids of letters, its figures beside their closed forms, the step on each machine, and with
`--seq-len` what the executor will allocate. In a terminal grids end at its width. NumPy and the
standard library are enough, except for `--draw`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from shutil import get_terminal_size

from seq1f1b_jax.explore.command.comparison import comparison
from seq1f1b_jax.explore.command.listing import listing
from seq1f1b_jax.explore.command.options import check, parser
from seq1f1b_jax.explore.command.outputs import check_folders, draw, save
from seq1f1b_jax.explore.command.report import buffers, report
from seq1f1b_jax.explore.command.searching import search
from seq1f1b_jax.explore.command.subjects import (
    LEADING,
    Subject,
    first_subject,
    other_subjects,
)
from seq1f1b_jax.paths import one_line
from seq1f1b_jax.schedule.plan import PlanError


def main(arguments: Sequence[str] | None = None, *, width: int | None = None) -> int:
    """Run the command.

    Args:
      arguments: of the command line; those of the process unless given.
      width: letters of a line of the terminal; None: grids are printed whole.

    Returns:
      The exit status: 0, or 2 after one line about bad input on standard error (of a plan that
      cannot run, its grid follows).

    Example:
      >>> from contextlib import redirect_stdout
      >>> from io import StringIO
      >>> from seq1f1b_jax.explore.__main__ import main
      >>> with redirect_stdout(StringIO()) as printed:
      ...     status = main(["1F1B", "--ranks", "2", "--microbatches", "2"])
      >>> status, printed.getvalue().splitlines()[0]
      (0, '1f1b: ranks=2 microbatches=2 chunks=1 exchange=parity, 2 units of work on every rank')
    """
    options = parser().parse_args(arguments)
    try:
        text = _text(options, None if options.full else width)
    except PlanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _text(options: argparse.Namespace, width: int | None) -> str:
    """Run the command and return its output."""
    check(options)
    check_folders(options.save, options.draw)
    if options.schedule is None and not options.search:
        return listing()
    machine = options.machine or LEADING[0]
    if options.search:
        first, distances = search(options)
        parts = [distances]
    else:
        first, parts = first_subject(options), []
    subjects = [first, *other_subjects(options, first)]
    parts.append(_report(first, options, machine=machine, width=width))
    if options.seq_len is not None:
        parts.append(buffers(first.plan, seq_len=options.seq_len, block=options.block))
    if options.compare:
        parts.append(comparison(subjects, machine=machine))
    if options.save is not None:
        parts.append(save(first.plan, options.save, form=options.format or "own"))
    if options.draw is not None:
        parts.append(draw(subjects, options.draw, machine=machine))
    return "\n\n".join(parts)


def _report(
    subject: Subject, options: argparse.Namespace, *, machine: str, width: int | None
) -> str:
    """All about one plan, with one line below where the terminal cuts its grids."""
    text = report(subject, machine=machine, max_width=width, full=options.full)
    if not any(line.startswith("(columns ") for line in text.splitlines()):
        return text
    return f"{text}\n\nthe grids are wider than this terminal; --full prints them whole"


if __name__ == "__main__":
    sys.exit(main(width=get_terminal_size().columns if sys.stdout.isatty() else None))
