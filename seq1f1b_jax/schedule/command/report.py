"""All about one plan."""

from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from functools import reduce
from itertools import pairwise
from math import gcd
from typing import Any

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.command.subjects import Subject
from seq1f1b_jax.schedule.command.text import (
    microbatches,
    number,
    numbers,
    ops_of,
    ratio,
    size_text,
    table,
)
from seq1f1b_jax.schedule.costs import Costs
from seq1f1b_jax.schedule.grid import draw_plan
from seq1f1b_jax.schedule.lower import lower
from seq1f1b_jax.schedule.partition import even_lengths
from seq1f1b_jax.schedule.plan import Plan, peak_units
from seq1f1b_jax.schedule.simulate import MACHINES, Simulation, draw_simulation

_MAX_COLUMNS = 1000
_WORDS = {Op.F: "forward", Op.B: "backward", Op.I: "input gradient", Op.W: "weight gradient"}


def report(subject: Subject, *, machine: str) -> str:
    """Write the order of work, the course of time, the formulas and the machines.

    Args:
      subject: the plan and its costs.
      machine: whose course of time is shown.
    """
    plan, simulation = subject.plan, subject.simulations[machine]
    parts = (
        f"{plan.name}: {size_text(plan)}, {plan.num_units * plan.num_virtual} units of work on"
        " every rank",
        _order_of_work(plan),
        _course_of_time(subject, simulation),
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
    sequences = "microbatches" + " of one virtual stage" * (plan.num_virtual > 1)
    rows = (
        ("chunk lengths", numbers(ticks.chunk_lengths), "tokens"),
        ("ticks", str(ticks.num_ticks), ""),
        ("cache slots, by rank", numbers(ticks.cache_slots_per_rank), sequences),
        ("prefix slots, by rank", numbers(ticks.prefix_slots_per_rank), sequences),
        ("inbox slots, by rank", numbers(ticks.inbox_slots_per_rank), "messages"),
        ("residual arena, by rank", numbers(ticks.arena_tokens_per_rank), "tokens"),
        ("deferred to W, by rank", numbers(ticks.deferred_tokens_per_rank), "tokens"),
    )
    return table(row for row in rows if row[0] != "deferred to W, by rank" or Op.W in ticks.ops)


def cost_text(costs: Costs, ops: Iterable[Op]) -> str:
    """Write the times of operations, and of a message if it takes any.

    Example:
      >>> cost_text(Costs(forward=1, backward=2, transfer=0.5), (Op.F, Op.B))
      'F=1 B=2 transfer=0.5'
    """
    words = [f"{op}={number(time)}" for op, time in _times(costs, ops).items()]
    return " ".join(words + [f"transfer={number(costs.transfer)}"] * bool(costs.transfer))


def _times(costs: Costs, ops: Iterable[Op]) -> dict[Op, Any]:
    cost = costs.per_action(1, 1)
    return {op: cost(Action(op, 0, 0, 0)) for op in ops}


def _order_of_work(plan: Plan) -> str:
    if max(map(len, plan.ranks)) > _MAX_COLUMNS:
        return f"order of work: more than {_MAX_COLUMNS} columns, not drawn"
    words = ", ".join(f"{op} {_WORDS[op]}" for op in ops_of(plan))
    stage = "@stage" * (plan.num_virtual > 1)
    return f"order of work ({words}, then microbatch.chunk{stage})\n{draw_plan(plan)}"


def _course_of_time(subject: Subject, simulation: Simulation) -> str:
    plan, costs = subject.plan, subject.costs
    ops = ops_of(plan)
    column = _measure([*_times(costs, ops).values(), costs.transfer])
    machine = f", {simulation.machine}" * (simulation.machine != MACHINES[0])
    title = f"course of time{machine} ({cost_text(costs, ops)}, one column is {number(column)})"
    if simulation.makespan / column > _MAX_COLUMNS:
        return f"{title}: more than {_MAX_COLUMNS} columns, not drawn"
    return f"{title}\n{draw_simulation(simulation, column=column)}"


def _measure(times: Iterable[Any]) -> Fraction:
    """The largest time that all the others are multiples of."""
    return reduce(_common, (Fraction(time) for time in times if time))


def _common(a: Fraction, b: Fraction) -> Fraction:
    scale = a.denominator * b.denominator
    return Fraction(gcd(int(a * scale), int(b * scale)), scale)


def _figures(subject: Subject, simulation: Simulation) -> str:
    """What was simulated next to what the formulas say."""
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
    elsewhere = "" if simulation.machine in form.machines else f" ({' and '.join(form.machines)})"
    formulas = [
        (number(form.makespan), ""),
        (number(form.bubble), form.bubble_rule + elsewhere * (form.bubble is not None)),
        (ratio(form.bubble_fraction), ""),
        (numbers(form.peak_units), form.peak_rule),
        (number(microbatches(max(form.peak_units), plan)), "units/(V*C)"),
        ("", ""),
    ]
    both = ((*row, *formula) for row, formula in zip(rows, formulas, strict=True))
    return table([("", "simulated", "closed form", ""), *both])


def _machines(subject: Subject) -> str:
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
    """What a faster step would have to shorten, in one line."""
    path = simulation.critical_path
    ranks = [action.stage % simulation.num_stages for action in path]
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
