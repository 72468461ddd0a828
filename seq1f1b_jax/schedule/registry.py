"""The schedules by name. A new one is one file, one line here and one golden grid."""

from difflib import get_close_matches
from types import MappingProxyType

from seq1f1b_jax.schedule.gpipe import gpipe
from seq1f1b_jax.schedule.plan import Plan
from seq1f1b_jax.schedule.seq1f1b import one_forward_one_backward, seq1f1b

SCHEDULES = MappingProxyType(
    {
        "gpipe": gpipe,
        "1f1b": one_forward_one_backward,
        "seq1f1b": seq1f1b,
    }
)


def make_plan(
    name: str, *, num_stages: int, num_microbatches: int, num_chunks: int, extra_warmup: int = 0
) -> Plan:
    """Generate the plan of a named schedule.

    Args:
      name: a key of `SCHEDULES`.
      num_stages: ranks of the pipeline, at least 1.
      num_microbatches: sequence batches per step, at least 1.
      num_chunks: slices of each sequence, at least 1.
      extra_warmup: forwards added to every rank's warm-up, where the schedule has one.

    Returns:
      A valid plan.

    Raises:
      ValueError: the name is unknown, or the schedule does not exist at these sizes.

    Example:
      >>> make_plan("seq1f1b", num_stages=4, num_microbatches=8, num_chunks=2).num_units
      16
    """
    if name not in SCHEDULES:
        near = get_close_matches(name, SCHEDULES, n=1)
        cure = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(SCHEDULES)}"
        raise ValueError(f"schedule {name!r} is not known; {cure}")
    return SCHEDULES[name](
        num_stages=num_stages,
        num_microbatches=num_microbatches,
        num_chunks=num_chunks,
        extra_warmup=extra_warmup,
    )
