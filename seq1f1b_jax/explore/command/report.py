"""All about one plan."""

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from functools import reduce
from itertools import pairwise
from math import gcd
from typing import Any

from seq1f1b_jax.explore.command.subjects import LEADING, Subject
from seq1f1b_jax.explore.command.text import (
    microbatches,
    number,
    numbers,
    ops_of,
    ratio,
    size_text,
    table,
)
from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.grid import draw_plan
from seq1f1b_jax.schedule.lowering.lower import lower
from seq1f1b_jax.schedule.partition import even_lengths
from seq1f1b_jax.schedule.plan import Plan, peak_units
from seq1f1b_jax.schedule.simulation.simulate import Simulation, draw_simulation

_MAX_COLUMNS = 1000
_MAX_COLUMNS_PER_ACTION = 8  # more: the times have no common divisor that a grid could show
_MAX_CELLS = 5_000_000
_WORDS = {Op.F: "forward", Op.B: "backward", Op.I: "input gradient", Op.W: "weight gradient"}


def report(
    subject: Subject, *, machine: str, max_width: int | None = None, full: bool = False
) -> str:
    """Write the order of work, the timeline, the formulas and the machines.

    Args:
      subject: the plan and its costs.
      machine: whose timeline is shown.
      max_width: letters that a line of a grid may have; None: any.
      full: also draw a timeline of very many columns.
    """
    plan, simulation = subject.plan, subject.simulations[machine]
    title = (
        f"{plan.name}: {size_text(plan)}, {plan.num_units * plan.stages_per_rank} units of work on"
        " every rank"
    )
    parts = (
        "\n".join((title, *subject.notes)),
        _order_of_work(plan, max_width),
        _timeline(subject, simulation, max_width, full=full),
        _figures(subject, simulation),
        _machines(subject),
        _critical_path(simulation),
    )
    return "\n\n".join(parts)


def buffers(plan: Plan, *, seq_len: int, block: int) -> str:
    """Write what the executor allocates for sequences of `seq_len` tokens.

    Raises:
      ValueError: fewer tokens than chunks.
    """
    ticks = lower(plan, even_lengths(seq_len, plan.num_chunks, block=block))
    of_stage = " of one stage" * (plan.stages_per_rank > 1)
    sequences, tokens = "microbatches" + of_stage, "tokens"
    rows = (
        ("chunk lengths", numbers(ticks.chunk_lengths), "tokens"),
        ("ticks", str(ticks.num_ticks), ""),
        ("cache, by rank", numbers(ticks.cache_tokens_per_rank), tokens),
        ("prefix slots, by rank", numbers(ticks.prefix_slots_per_rank), sequences),
        ("inbox slots, by rank", numbers(ticks.inbox_slots_per_rank), "messages"),
        ("residual arena, by rank", numbers(ticks.arena_tokens_per_rank), tokens),
        ("deferred to W, by rank", numbers(ticks.deferred_tokens_per_rank), tokens),
    )
    return table(row for row in rows if row[0] != "deferred to W, by rank" or Op.W in ticks.ops)


def cost_text(subject: Subject) -> str:
    """Write the times of a unit on a rank, and of a message if it takes any: `F=1 B=2`."""
    V, transfer = subject.plan.stages_per_rank, subject.costs.transfer
    words = [f"{op}={number(V * time)}" for op, time in _times(subject).items()]
    return " ".join(words + [f"transfer={number(transfer)}"] * bool(transfer))


def _times(subject: Subject) -> dict[Op, Any]:
    """Of one action, by operation: that of a unit on a stage."""
    cost = subject.costs.per_action(1, 1)
    return {op: cost(Action(op, 0, 0, 0)) for op in ops_of(subject.plan)}


def _order_of_work(plan: Plan, max_width: int | None) -> str:
    words = ", ".join(f"{op} {_WORDS[op]}" for op in ops_of(plan))
    stage = "@stage" * (plan.stages_per_rank > 1)
    grid = draw_plan(plan, max_width=max_width)
    return f"order of work ({words}, then microbatch.chunk{stage})\n{grid}"


def _timeline(
    subject: Subject, simulation: Simulation, max_width: int | None, *, full: bool
) -> str:
    plan, costs = subject.plan, subject.costs
    column = _measure([*_times(subject).values(), costs.transfer])
    differs = not subject.executor_is_asynchronous or simulation.machine not in LEADING
    machine = f", {simulation.machine}" * differs
    parts = f" in {plan.stages_per_rank} stages" * (plan.stages_per_rank > 1)
    title = f"timeline{machine} ({cost_text(subject)}{parts}, one column is {number(column)})"
    columns = simulation.makespan / column
    limit = max(_MAX_COLUMNS, _MAX_COLUMNS_PER_ACTION * max(map(len, plan.ranks)))
    if full:
        limit = _MAX_CELLS // plan.num_ranks
    if columns > limit:
        cure = "" if full else "; --full draws it"
        return f"{title}: {float(columns):.0f} columns, not drawn{cure}"
    return f"{title}\n{draw_simulation(simulation, column=column, max_width=max_width)}"


def _measure(times: Iterable[Any]) -> Fraction:
    """The largest time that all the others are multiples of."""
    return reduce(_common, (Fraction(time) for time in times if time))


def _common(a: Fraction, b: Fraction) -> Fraction:
    scale = a.denominator * b.denominator
    return Fraction(gcd(int(a * scale), int(b * scale)), scale)


def _figures(subject: Subject, simulation: Simulation) -> str:
    """Simulated figures beside those of the formulas."""
    plan, form = subject.plan, subject.form
    peaks = peak_units(plan)
    rows = [
        ("step time", number(simulation.makespan)),
        ("bubble time", number(simulation.bubble)),
        ("bubble fraction", ratio(simulation.bubble_fraction)),
        ("peak units, by rank", numbers(peaks)),
        ("peak in microbatches", number(microbatches(max(peaks), plan))),
        ("idle time, by rank", numbers(simulation.idle)),
    ]
    if form is None:
        return table([("", "simulated"), *rows])
    others = "" if simulation.machine in form.machines else f" ({' and '.join(form.machines)})"
    formulas = [
        (number(form.makespan), ""),
        (number(form.bubble), form.bubble_rule + others * (form.bubble is not None)),
        (ratio(form.bubble_fraction), ""),
        (numbers(form.peak_units or ()), form.peak_rule),
        (number(form.peak_units and microbatches(max(form.peak_units), plan)), "units/(V*C)"),
        ("", ""),
    ]
    both = ((*row, *formula) for row, formula in zip(rows, formulas, strict=True))
    return table([("", "simulated", "closed form", ""), *both])


def _machines(subject: Subject) -> str:
    """The step on each machine; the executor, which will run it, comes first."""
    rows = (
        (
            machine,
            number(simulation.makespan),
            ratio(simulation.bubble_fraction),
            ratio(subject.over_asynchronous(machine)),
        )
        for machine, simulation in subject.simulations.items()
    )
    return table([("machine", "step time", "bubble fraction", "over asynchronous"), *rows])


def _critical_path(simulation: Simulation) -> str:
    """The actions that a faster step would have to shorten, in one line."""
    path = simulation.critical_path
    ranks = [action.stage % simulation.num_ranks for action in path]
    first, last = (f"{path[end].text(ranks[end])} on rank {ranks[end]}" for end in (0, -1))
    counts = Counter(action.op for action in path)
    ops = ", ".join(f"{counts[op]} {op}" for op in Op if counts[op])
    changes = sum(before != after for before, after in pairwise(ranks))
    moving = simulation.makespan - sum(simulation.ends[a] - simulation.starts[a] for a in path)
    transfers = f", {number(moving)} in transfers" if moving else ""
    return (
        f"critical path: {len(path)} actions ({ops}) from {first} to {last}, {changes} changes of"
        f" rank{transfers}"
    )
