"""The schedules by name, a line each."""

from seq1f1b_jax.explore.command.text import table
from seq1f1b_jax.schedule.formulas import closed_form
from seq1f1b_jax.schedule.registry import SCHEDULES, Schedule
from seq1f1b_jax.schedule.simulation.durations import Costs

_OPTIONS = {
    "stages_per_rank": "--stages-per-rank",
    "extra_warmup": "--extra-warmup",
    "short_warmup": "--short-warmup",
}


def listing() -> str:
    """Write every schedule with its formulas and options."""
    rows = [_row(name, schedule) for name, schedule in SCHEDULES.items()]
    heads = ("schedule", "units in flight on rank p", "bubble time", "options")
    return (
        table([heads, *rows])
        + "\n\nP ranks, M microbatches, C chunks, V stages per rank; F, B = I+W the times"
        "\nof a unit on a rank; g the units that go through a rank's stages together; - no formula."
        "\n\n"
        "python -m seq1f1b_jax.explore seq1f1b --ranks 4 --microbatches 4 --chunks 2"
    )


def _row(name: str, schedule: Schedule) -> tuple[str, ...]:
    num_chunks = 1 if schedule.chunked_name else 2
    sizes = {"num_ranks": 4, "num_microbatches": 8, "num_chunks": num_chunks}
    form = closed_form(name, Costs(forward=1, backward=2), **sizes)
    options = (word for option, word in _OPTIONS.items() if schedule.takes(option))
    whole = "whole sequences" if schedule.chunked_name else "--chunks"
    peak_rule = form.peak_rule.split(", g=")[0]
    return name, peak_rule, form.bubble_rule, " ".join((whole, *options))
