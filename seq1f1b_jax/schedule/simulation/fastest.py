"""Which exchange suits an order: the one whose step is shorter in the executor."""

from dataclasses import replace
from typing import NamedTuple

from seq1f1b_jax.schedule.exchange import Exchange
from seq1f1b_jax.schedule.plan import Plan
from seq1f1b_jax.schedule.simulation.durations import Costs
from seq1f1b_jax.schedule.simulation.simulate import simulate

COSTS = Costs(forward=1, backward=2)
"""Times that the choice is based on: a backward twice as long as a forward, its halves alike."""


class Choice(NamedTuple):
    """A plan with its exchange, and why it has that one.

    Attributes:
      plan: with the exchange.
      reason: in one line.
    """

    plan: Plan
    reason: str


def with_faster_exchange(plan: Plan) -> Choice:
    """Give a plan the exchange under which it is faster.

    Args:
      plan: a valid plan; its own exchange does not count.

    Returns:
      Where both take the same time, `parity` on a line and `lockstep` on a ring (of ranks that hold
      several stages). On a ring of an odd number of ranks, which has no parity, `lockstep`.

    Example:
      >>> from seq1f1b_jax.schedule import make_plan
      >>> from seq1f1b_jax.schedule.simulation.fastest import with_faster_exchange
      >>> plan = make_plan("1f1b-lockstep", num_ranks=4, num_microbatches=8, num_chunks=1)
      >>> with_faster_exchange(plan).reason
      'exchange=lockstep, faster for this order: a step of 33, with parity 39 (F=1 B=2)'
    """
    if plan.stages_per_rank > 1 and plan.num_ranks % 2:
        reason = "exchange=lockstep, the one for several stages on each of an odd number of ranks"
        return Choice(replace(plan, exchange=Exchange.LOCKSTEP), reason)
    usual = Exchange.of_line_or_ring(plan.stages_per_rank)
    times = {
        exchange: simulate(replace(plan, exchange=exchange), COSTS, machine="executor").makespan
        for exchange in sorted(Exchange, key=lambda e: e is not usual)
    }
    best = min(times, key=lambda exchange: times[exchange])  # the first of equal ones
    (other,) = set(times) - {best}
    faster = f"{best}, faster for this order" if times[best] < times[other] else f"{best}"
    return Choice(
        replace(plan, exchange=best),
        f"exchange={faster}: a step of {times[best]}, with {other} {times[other]} (F=1 B=2)",
    )
