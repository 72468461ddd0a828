"""Several plans that do the same work, side by side."""

from collections.abc import Sequence

from seq1f1b_jax.explore.command.report import cost_text
from seq1f1b_jax.explore.command.subjects import LEADING, Subject
from seq1f1b_jax.explore.command.text import microbatches, number, ratio, table
from seq1f1b_jax.schedule.plan import peak_units


def comparison(subjects: Sequence[Subject], *, machine: str) -> str:
    """Write one column per plan.

    Args:
      subjects: plans of the same ranks and microbatches; the first is the measure of the others.
      machine: whose times are shown.
    """
    columns = [_column(subject, subjects[0], machine=machine) for subject in subjects]
    names = dict.fromkeys(name for column in columns for name in column)
    return table([(name, *(column[name] for column in columns)) for name in names])


def _column(subject: Subject, first: Subject, *, machine: str) -> dict[str, str]:
    plan, simulation = subject.plan, subject.simulations[machine]
    step = simulation.makespan / first.simulations[machine].makespan
    peaks = peak_units(plan)
    return {
        "comparison": plan.name,
        "chunks": str(plan.num_chunks),
        "stages per rank": str(plan.stages_per_rank),
        "exchange": str(plan.exchange),
        "times of a unit on a rank": cost_text(subject),
        f"step time, {machine}": number(simulation.makespan),
        "step time over the first": ratio(step),
        "bubble time": number(simulation.bubble),
        "bubble fraction": ratio(simulation.bubble_fraction),
        "peak units, fullest rank": number(max(peaks)),
        "peak in microbatches": number(microbatches(max(peaks), plan)),
        **_other_machine(subject, machine),
        "executor over asynchronous": ratio(subject.over_asynchronous("executor")),
    }


def _other_machine(subject: Subject, machine: str) -> dict[str, str]:
    """The step on the asynchronous machine beside the executor's, and the other way round."""
    others = [name for name in LEADING if name != machine]
    return {f"step time, {name}": number(subject.simulations[name].makespan) for name in others}
