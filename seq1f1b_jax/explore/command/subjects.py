"""The plans that the command reports on, generated or read, with the costs of their actions."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from seq1f1b_jax.explore.command.text import ops_of
from seq1f1b_jax.paths import one_line, resolve
from seq1f1b_jax.schedule.actions import Op
from seq1f1b_jax.schedule.files.plan_file import load_plan, read_plan
from seq1f1b_jax.schedule.formulas import ClosedForm, closed_form
from seq1f1b_jax.schedule.plan import Plan
from seq1f1b_jax.schedule.registry import SCHEDULES, find_schedule, make_plan
from seq1f1b_jax.schedule.simulation.durations import Costs
from seq1f1b_jax.schedule.simulation.simulate import MACHINES, Simulation, simulate
from seq1f1b_jax.schedule.user_code import IMPORTABLE

MAX_ACTIONS = 1_000_000
"""Largest plan that is made: takes about a minute and a gigabyte to simulate."""


LEADING = ("executor", "asynchronous")
"""The machine that is shown unless the user names another, and the one that it is measured by."""


@dataclass(frozen=True)
class Subject:
    """A plan to report on.

    Attributes:
      plan: a valid plan.
      costs: times of its actions, by stage.
      form: its formulas; None for a plan of a file, and where there are none.
      notes: lines about how it was read.
    """

    plan: Plan
    costs: Costs
    form: ClosedForm | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def simulations(self) -> Mapping[str, Simulation]:
        """The plan on every machine, first on the one that will run it."""
        names = (*LEADING, *(name for name in MACHINES if name not in LEADING))
        return {name: simulate(self.plan, self.costs, machine=name) for name in names}

    @property
    def executor_is_asynchronous(self) -> bool:
        """Whether the executor takes the time that the order alone would."""
        executor, asynchronous = (self.simulations[name].makespan for name in LEADING)
        return executor == asynchronous

    def over_asynchronous(self, machine: str) -> float:
        """Step time over that of the asynchronous machine."""
        simulations = self.simulations
        return float(simulations[machine].makespan / simulations["asynchronous"].makespan)


def first_subject(options: argparse.Namespace) -> Subject:
    """Make or read the plan that the command names.

    Raises:
      ValueError: there is no such plan, it cannot be read, or the sizes contradict it.
    """
    name = options.schedule
    if not _is_file(name):
        return _named(name, options, _sizes_given(name, options))
    plan, exchange = load_plan(name, num_chunks=options.chunks)
    _check_not_contradicted(name, plan, options)
    return replace(_subject(plan, options), notes=(exchange,) * bool(exchange))


def other_subjects(options: argparse.Namespace, first: Subject) -> list[Subject]:
    """Make or read the plans to compare with the first one: of the same ranks and microbatches.

    A schedule of whole sequences beside one with chunks does the same work in longer units.

    Raises:
      ValueError: there is no such plan, it cannot be read, or it does other work.
    """
    return [_other(name, options, first.plan) for name in options.compare]


def costs_of(
    options: argparse.Namespace, *, stages_per_rank: int, split: bool, length: Any = 1
) -> Costs:
    """Times of a plan's actions on its stages, from those of a unit on a rank.

    Args:
      options: of the command.
      stages_per_rank: stages V, each of which takes a V-th.
      split: whether the plan holds an `I` and a `W`.
      length: of the plan's units, in the units of the options.

    Raises:
      ValueError: `W` takes all of the backward.
    """
    weights = options.forward if options.weights is None else options.weights
    if split and weights >= options.backward:
        raise ValueError(
            f"a W of {weights} leaves nothing of a backward of {options.backward} to I;"
            " give --weights below --backward"
        )
    share = Fraction(length) / stages_per_rank
    return Costs(
        forward=_exact(options.forward * share),
        backward=_exact(options.backward * share),
        weights=_exact(weights * share) if split else 0,
        transfer=_exact(options.transfer * length),
    )


def check_size(
    *, num_ranks: int, num_microbatches: int, num_chunks: int, stages_per_rank: int
) -> None:
    """Refuse sizes that would take the machine's memory.

    Raises:
      ValueError: more than `MAX_ACTIONS` actions.
    """
    actions = 2 * num_ranks * num_microbatches * num_chunks * stages_per_rank
    if actions > MAX_ACTIONS:
        raise ValueError(
            f"these sizes make {actions} actions, more than {MAX_ACTIONS}; use fewer stages,"
            " microbatches or chunks"
        )


def _other(name: str, options: argparse.Namespace, first: Plan) -> Subject:
    if not _is_file(name):
        sizes = {size: getattr(first, size) for size in _WORK}
        num_chunks = 1 if find_schedule(name).chunked_name else first.num_chunks
        return _named(name, options, sizes | {"num_chunks": num_chunks}, first)
    plan = read_plan(name)
    if plan.num_microbatches != first.num_microbatches and plan.num_units == first.num_units:
        plan = read_plan(name, num_chunks=first.num_chunks)  # torch's microbatches are its chunks
    for size in _WORK:
        own, other = getattr(plan, size), getattr(first, size)
        if own != other:
            raise ValueError(
                f"{one_line(name)} has {size}={own} and {first.name} has {other}; compare plans"
                " that do the same work on the same ranks"
            )
    return _subject(plan, options, first)


def _named(
    name: str, options: argparse.Namespace, sizes: dict[str, int], first: Plan | None = None
) -> Subject:
    """Each plan gets the options that it takes; what none takes, the first generator refuses."""
    schedule = find_schedule(name)
    stages_per_rank = (options.stages_per_rank or 2) if schedule.takes("stages_per_rank") else 1
    check_size(**sizes, stages_per_rank=stages_per_rank)
    given = {
        variant: getattr(options, variant)
        for variant in _VARIANTS
        if getattr(options, variant)
        and (schedule.takes(variant) or (first is None and not _takers(variant, options)))
    }
    plan = make_plan(name, **sizes, **given)
    subject = _subject(plan, options, first)
    if schedule.in_flight is None and schedule.bubble is None:
        return subject
    return replace(subject, form=closed_form(name, subject.costs, **sizes, **given))


def _subject(plan: Plan, options: argparse.Namespace, first: Plan | None = None) -> Subject:
    length = Fraction(first.num_chunks, plan.num_chunks) if first else 1
    split = Op.W in ops_of(plan)
    return Subject(
        plan, costs_of(options, stages_per_rank=plan.stages_per_rank, split=split, length=length)
    )


def _is_file(name: str) -> bool:
    if name.lower() in SCHEDULES or IMPORTABLE.fullmatch(name):
        return False
    return resolve(name).exists() or Path(name).suffix != "" or os.sep in name


_WORK = ("num_ranks", "num_microbatches")
_VARIANTS = ("stages_per_rank", "extra_warmup", "short_warmup")  # of `make_plan`


def _sizes_given(name: str, options: argparse.Namespace) -> dict[str, int]:
    find_schedule(name)  # an unknown name is the first thing to say
    for option in ("ranks", "microbatches"):
        if getattr(options, option) is None:
            raise ValueError(f"{name} needs --{option}; add for example --{option} 4")
    return {
        "num_ranks": options.ranks,
        "num_microbatches": options.microbatches,
        "num_chunks": options.chunks or 1,
    }


def _check_not_contradicted(name: str, plan: Plan, options: argparse.Namespace) -> None:
    """A file brings its sizes."""
    sizes = {name: f"num_{name}" for name in ("ranks", "microbatches", "chunks")}
    for option, size in (sizes | {"stages_per_rank": "stages_per_rank"}).items():
        given, own = getattr(options, option), getattr(plan, size)
        if given not in (None, own) and not _takers(option, options):
            flag = option.replace("_", "-")
            raise ValueError(
                f"--{flag} {given} contradicts {size}={own} of {one_line(name)}; leave it out"
            )
    for variant in ("extra_warmup", "short_warmup"):
        if getattr(options, variant) and not _takers(variant, options):
            option = variant.replace("_", "-")
            raise ValueError(
                f"--{option} cannot change the plan file {one_line(name)}; leave it out"
            )


def _takers(variant: str, options: argparse.Namespace) -> list[str]:
    return [
        name
        for name in options.compare
        if not _is_file(name) and find_schedule(name).takes(variant)
    ]


def _exact(value: Fraction) -> int | Fraction:
    """An integer where it is one: simulations of integers are faster."""
    return int(value) if value.denominator == 1 else value
