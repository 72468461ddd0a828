"""The search of the command."""

import argparse

from seq1f1b_jax.explore.command.subjects import LEADING, Subject, check_size, costs_of
from seq1f1b_jax.explore.command.text import number
from seq1f1b_jax.explore.search import SearchResult, compare_named, draw_comparison, find_plan


def search(options: argparse.Namespace) -> tuple[Subject, str]:
    """Find a plan for the sizes of the command line.

    Args:
      options: of the command.

    Returns:
      The plan, and how far the named schedules are from it.

    Raises:
      ValueError: a size is missing, or no plan keeps within the memory.
    """
    if options.ranks is None or options.microbatches is None:
        raise ValueError("--search needs sizes; add for example --ranks 3 --microbatches 4")
    sizes = {
        "num_ranks": options.ranks,
        "num_microbatches": options.microbatches,
        "num_chunks": options.chunks or 1,
        "stages_per_rank": options.stages_per_rank or 1,
    }
    check_size(**sizes)
    costs = costs_of(options, stages_per_rank=sizes["stages_per_rank"], split=True)
    result = find_plan(
        **sizes,
        costs=costs,
        max_units=options.memory,
        split=options.split,
        machine=options.machine or LEADING[0],
    )
    distances = draw_comparison(compare_named(result, costs))
    return Subject(result.plan, costs), f"{_found(result)}\n\n{distances}"


def _found(result: SearchResult) -> str:
    """One line about how good the plan is."""
    kind = "" if result.split else " of whole backwards"
    if result.exact:
        quality = f"no order{kind} is faster"
    else:
        over = float(result.makespan / result.lower_bound)
        quality = f"at most {over:.4f} times the fastest{kind} (bound {number(result.lower_bound)})"
    return (
        f"search: step time {number(result.makespan)} on the {result.machine} machine with at most"
        f" {result.max_units} units on a rank; {quality}"
    )
