"""The schedules by name. A new one is one file, one line here and one golden grid."""

import re
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from types import MappingProxyType
from typing import Any

from seq1f1b_jax.schedule.generators.interleaved import INTERLEAVED
from seq1f1b_jax.schedule.generators.seq1f1b import SEQ1F1B, SEQ1F1B_LOCKSTEP
from seq1f1b_jax.schedule.generators.terapipe import TERAPIPE
from seq1f1b_jax.schedule.generators.zero_bubble import ZERO_BUBBLE_H1
from seq1f1b_jax.schedule.named import Schedule
from seq1f1b_jax.schedule.not_offered import why_not_offered
from seq1f1b_jax.schedule.plan import Plan
from seq1f1b_jax.schedule.user_code import IMPORTABLE, import_named
from seq1f1b_jax.schedule.validate import validate

_schedules = {
    "gpipe": replace(TERAPIPE, chunked_name="terapipe"),
    "terapipe": TERAPIPE,
    "1f1b": replace(SEQ1F1B, chunked_name="seq1f1b"),
    "seq1f1b": SEQ1F1B,
    "1f1b-lockstep": replace(SEQ1F1B_LOCKSTEP, chunked_name="seq1f1b-lockstep"),
    "seq1f1b-lockstep": SEQ1F1B_LOCKSTEP,
    "1f1b-i": replace(INTERLEAVED, chunked_name="seq1f1b-i"),
    "seq1f1b-i": INTERLEAVED,
    "zb-h1": replace(ZERO_BUBBLE_H1, chunked_name="seq-zb-h1"),
    "seq-zb-h1": ZERO_BUBBLE_H1,
}
SCHEDULES = MappingProxyType(_schedules)
"""Name -> schedule: those of the package, then those of `register_schedule`."""

_SIZES = ("num_ranks", "num_microbatches", "num_chunks")
_OPTIONS = ("stages_per_rank", "extra_warmup", "short_warmup")
_NAME = re.compile(r"[a-z0-9]+([_-][a-z0-9]+)*")


def register_schedule(name: str, schedule: Schedule) -> None:
    r"""Make a schedule known by name: to `make_plan`, the listing and `--schedule.name`.

    Every plan that it generates is validated.

    Args:
      name: lower-case letters, digits and single hyphens or underscores between them.
      schedule: whose generator takes `num_ranks`, `num_microbatches` and `num_chunks` by name, any
        of the options of `make_plan`, and nothing else without a default.

    Raises:
      ValueError: the name is taken or is no such word, or the generator takes other arguments.

    Example:
      >>> from seq1f1b_jax.schedule import Plan, Schedule, make_plan, register_schedule
      >>> def one_by_one(*, num_ranks, num_microbatches, num_chunks):
      ...     rows = [" ".join(f"F{m}.0 B{m}.0" for m in range(num_microbatches))] * num_ranks
      ...     header = f"x ranks={num_ranks} microbatches={num_microbatches} chunks={num_chunks}"
      ...     return Plan.parse("\n".join([header, *rows]))
      >>> register_schedule("one-by-one", Schedule(one_by_one))
      >>> make_plan("one-by-one", num_ranks=2, num_microbatches=3, num_chunks=1).ranks[1][0].text(1)
      'F0.0'
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"schedule name {name!r} must be one word of lower-case letters, digits and hyphens,"
            " like my-1f1b"
        )
    if name in SCHEDULES:
        raise ValueError(f"schedule {name!r} is registered already; choose another name")
    _schedules[name] = _checked(schedule, name)


def make_plan(
    name: str,
    *,
    num_ranks: int,
    num_microbatches: int,
    num_chunks: int,
    stages_per_rank: int | None = None,
    extra_warmup: int = 0,
    short_warmup: bool = False,
) -> Plan:
    """Generate the plan of a named schedule.

    Args:
      name: a key of `SCHEDULES`, in capitals or not, or `package.module:name` of a generator or a
        `Schedule`, which is looked for where Python looks and in the working directory.
      num_ranks: ranks of the pipeline, at least 1.
      num_microbatches: sequence batches per step, at least 1.
      num_chunks: slices of each sequence, at least 1.
      stages_per_rank: stages per rank; None: 2 where the schedule interleaves them, else 1.
      extra_warmup: forwards added to every rank's warm-up, see `seq1f1b`.
      short_warmup: fewer units in flight, and waiting, see `interleaved`.

    Returns:
      A valid plan.

    Raises:
      ValueError: the name is unknown, or the schedule does not exist at these sizes or with these
        options.

    Example:
      >>> from seq1f1b_jax.schedule import make_plan
      >>> make_plan("seq1f1b", num_ranks=4, num_microbatches=8, num_chunks=2).num_units
      16
    """
    schedule = find_schedule(name)
    name = name if IMPORTABLE.fullmatch(name) else name.lower()
    if schedule.chunked_name and num_chunks != 1:
        raise ValueError(
            f"num_chunks={num_chunks} does not fit {name}, which runs whole sequences;"
            f" use 1, or the schedule {schedule.chunked_name}"
        )
    given = {}
    if stages_per_rank is not None and (stages_per_rank != 1 or schedule.takes("stages_per_rank")):
        given["stages_per_rank"] = stages_per_rank
    if extra_warmup:
        given["extra_warmup"] = extra_warmup
    if short_warmup:
        given["short_warmup"] = short_warmup
    for option, value in given.items():
        if not schedule.takes(option):
            takers = ", ".join(other for other in SCHEDULES if SCHEDULES[other].takes(option))
            raise ValueError(
                f"{option}={value} has no meaning for {name}; leave it out, or use one of {takers}"
            )
    plan = schedule.generate(
        num_ranks=num_ranks, num_microbatches=num_microbatches, num_chunks=num_chunks, **given
    )
    return replace(plan, name=name)


def find_schedule(name: str) -> Schedule:
    """Look a schedule up by its name, in capitals or not, or by `package.module:name`.

    Raises:
      ValueError: the name is unknown. Of a published schedule that is not offered the message says
        why, of any other name which known one is nearest.

    Example:
      >>> from seq1f1b_jax.schedule.registry import find_schedule
      >>> find_schedule("1F1B").chunked_name
      'seq1f1b'
    """
    if name.lower() in SCHEDULES:
        return SCHEDULES[name.lower()]
    if IMPORTABLE.fullmatch(name):
        found = import_named(name, what="schedule", kind="a generator of plans, or a Schedule")
        return _checked(found if isinstance(found, Schedule) else Schedule(found), name)
    reason = why_not_offered(name)
    if reason is not None:
        raise ValueError(f"schedule {name!r} is not offered by that name: it {reason}")
    near = get_close_matches(name.lower(), SCHEDULES, n=1)
    cure = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(SCHEDULES)}"
    raise ValueError(f"schedule {name!r} is not known; {cure}")


def _checked(schedule: Schedule, name: str) -> Schedule:
    """The schedule of a user, with every plan of it validated."""
    generate = schedule.generate
    _check_parameters(generate, name)

    @wraps(generate)
    def checked(**arguments: Any) -> Plan:
        plan = generate(**arguments)
        if not isinstance(plan, Plan):
            raise ValueError(f"schedule {name!r} gave a {type(plan).__name__}; return a Plan")
        for size in arguments.keys() & {*_SIZES, "stages_per_rank"}:
            if getattr(plan, size) != arguments[size]:
                raise ValueError(
                    f"schedule {name!r} gave a plan of {size}={getattr(plan, size)} where"
                    f" {arguments[size]} was asked for; use the argument"
                )
        validate(plan)
        return plan

    return replace(schedule, generate=checked)


def _check_parameters(generate: Callable[..., Plan], name: str) -> None:
    try:
        parameters = signature(generate).parameters
    except (TypeError, ValueError):
        parameters = {}
    required = {key for key, p in parameters.items() if p.default is Parameter.empty}
    if required != set(_SIZES) or not parameters.keys() <= {*_SIZES, *_OPTIONS}:
        raise ValueError(
            f"schedule {name!r} takes {', '.join(parameters) or 'no arguments by name'}; write"
            f" (*, {', '.join(_SIZES)}) -> Plan, with any of {', '.join(_OPTIONS)} that have a"
            " default"
        )
