"""The schedules by name. A new one is one file, one line here and one golden grid."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from inspect import signature
from types import MappingProxyType

from seq1f1b_jax.schedule.elsewhere import said_of
from seq1f1b_jax.schedule.generators.interleaved import interleaved
from seq1f1b_jax.schedule.generators.seq1f1b import seq1f1b, seq1f1b_lockstep
from seq1f1b_jax.schedule.generators.terapipe import terapipe
from seq1f1b_jax.schedule.generators.zero_bubble import zero_bubble_h1
from seq1f1b_jax.schedule.plan import Plan


@dataclass(frozen=True)
class Schedule:
    """A named schedule.

    Attributes:
      generate: the generator.
      chunked_name: of the schedule with chunks, where this one runs whole sequences; else None.
    """

    generate: Callable[..., Plan]
    chunked_name: str | None = None

    def takes(self, option: str) -> bool:
        """Whether the generator has this parameter."""
        return option in signature(self.generate).parameters


SCHEDULES = MappingProxyType(
    {
        "gpipe": Schedule(terapipe, chunked_name="terapipe"),
        "terapipe": Schedule(terapipe),
        "1f1b": Schedule(seq1f1b, chunked_name="seq1f1b"),
        "seq1f1b": Schedule(seq1f1b),
        "1f1b-lockstep": Schedule(seq1f1b_lockstep, chunked_name="seq1f1b-lockstep"),
        "seq1f1b-lockstep": Schedule(seq1f1b_lockstep),
        "1f1b-i": Schedule(interleaved, chunked_name="seq1f1b-i"),
        "seq1f1b-i": Schedule(interleaved),
        "zb-h1": Schedule(zero_bubble_h1, chunked_name="seq-zb-h1"),
        "seq-zb-h1": Schedule(zero_bubble_h1),
    }
)


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
      name: a key of `SCHEDULES`, in capitals or not.
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
    name = name.lower()
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
    """Look a schedule up, in capitals or not.

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
    reason = said_of(name)
    if reason is not None:
        raise ValueError(f"schedule {name!r} is not offered by that name: it {reason}")
    near = get_close_matches(name.lower(), SCHEDULES, n=1)
    cure = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(SCHEDULES)}"
    raise ValueError(f"schedule {name!r} is not known; {cure}")
