"""What a named schedule costs in closed form: units in flight and waiting time. Exact.

With P ranks, M microbatches, C chunks, V stages per rank, U = M*C units, p the rank, and F,
B = I+W the times of one unit on one rank, through all of its layers:

    schedule                   units in flight on rank p               bubble
    gpipe, terapipe            U                                       (P-1)(F+B)
    1f1b, seq1f1b              min(P-p-1+C, U)                         (P-1)(F+B)
    the same, lockstep         min(2(P-p-1)+C, U)                      (P-1)(F+B)
    1f1b-i, seq1f1b-i          min((V-1)g + 2(P-p-1)+C, V*U)           (P-1)(F+B)/V, for U >= P
    the same, short warm-up    min((V-1)g + P-p-1+C, V*U)              (P-1)(F+B)/V, for U >= P
    zb-h1, seq-zb-h1           min(P-1+C, U)                           (P-1)(F+I-W), for short W

Each is derived beside its generator. Simulation agrees to the last digit, on the machines that
`ClosedForm.machines` names. Units of unequal cost and messages that take time have no closed form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.named import Sizes
from seq1f1b_jax.schedule.registry import find_schedule
from seq1f1b_jax.schedule.simulation.durations import Costs

NO_FORMULA = "-"
"""The rule where a schedule brings none."""


@dataclass(frozen=True)
class ClosedForm:
    """What the formulas of a schedule give at some sizes and costs.

    Attributes:
      peak_units: units of one stage in flight on each rank at its fullest, for any costs; None
        where the schedule has no formula.
      peak_rule: the formula in letters.
      bubble: time by which the step exceeds the work of a rank; None where the schedule has no
        formula, units differ in cost or messages take time.
      bubble_rule: the formula in letters, the simplest that holds at these sizes and costs; where
        `bubble` is None, why.
      work: time that each rank computes; None as the bubble.
      machines: of `MACHINES`, those on which the bubble was seen to hold; no other is promised.
    """

    peak_units: tuple[int, ...] | None
    peak_rule: str
    bubble: Any | None
    bubble_rule: str
    work: Any | None
    machines: tuple[str, ...]

    @property
    def makespan(self) -> Any | None:
        """Time of the step: work and bubble."""
        return None if self.bubble is None else self.work + self.bubble

    @property
    def bubble_fraction(self) -> float | None:
        """Share of the step that each rank waits: bubble/(work+bubble); 0 if nothing takes time."""
        if self.bubble is None:
            return None
        return float(self.bubble / self.makespan) if self.makespan else 0.0


def closed_form(
    name: str,
    costs: Costs,
    *,
    num_ranks: int,
    num_microbatches: int,
    num_chunks: int,
    stages_per_rank: int | None = None,
    extra_warmup: int = 0,
    short_warmup: bool = False,
) -> ClosedForm:
    """Evaluate the formulas of a named schedule.

    Args:
      name: as `make_plan` takes it.
      costs: times of the actions, by stage as in `simulate`.
      num_ranks: ranks of the pipeline P.
      num_microbatches: sequence batches per step M.
      num_chunks: slices of each sequence C.
      stages_per_rank: stages per rank V; None: 2 where the schedule interleaves them, else 1.
      extra_warmup: see `seq1f1b`.
      short_warmup: see `interleaved`.

    Returns:
      What `peak_units(plan)` and `simulate(plan, costs)` give, without plan or simulation.

    Raises:
      ValueError: the name is unknown, or a cost does not broadcast to
        `[num_stages, num_chunks]`.

    Example:
      >>> from seq1f1b_jax.schedule import Costs, closed_form
      >>> sizes = dict(num_ranks=8, num_microbatches=8, num_chunks=4)
      >>> form = closed_form("seq1f1b", Costs(forward=1, backward=2), **sizes)
      >>> form.peak_units[0], form.bubble, form.bubble_rule, round(form.bubble_fraction, 3)
      (11, 21, '(P-1)(F+B)', 0.179)
    """
    schedule = find_schedule(name)
    if stages_per_rank is None:
        stages_per_rank = 2 if schedule.takes("stages_per_rank") else 1
    sizes = Sizes(
        num_ranks, num_microbatches, num_chunks, stages_per_rank, extra_warmup, short_warmup
    )
    peak_units, peak_rule = None, NO_FORMULA
    if schedule.in_flight is not None:
        in_flight, peak_rule = schedule.in_flight(sizes)
        peak_units = tuple(min(units, sizes.V * sizes.U) for units in in_flight)
    if schedule.bubble is None:
        return ClosedForm(peak_units, peak_rule, None, NO_FORMULA, None, ())
    _, *letters = signature(schedule.bubble).parameters
    times = _unit_times(costs, sizes, ops=[Op(letter) for letter in letters])
    if times is None:
        reason = "none: units differ in cost, or messages take time"
        return ClosedForm(peak_units, peak_rule, None, reason, None, ())
    bubble, bubble_rule, machines = schedule.bubble(sizes, *times)
    return ClosedForm(
        peak_units, peak_rule, bubble, bubble_rule, sizes.U * sum(times), tuple(machines)
    )


def _unit_times(costs: Costs, sizes: Sizes, *, ops: Sequence[Op]) -> tuple[Any, ...] | None:
    """The time of each operation on all stages of a rank; None where units differ in it."""
    cost = costs.per_action(sizes.P * sizes.V, sizes.C)
    units = [(stage, 0, chunk) for stage in range(sizes.P * sizes.V) for chunk in range(sizes.C)]
    times = [{cost(Action(op, *unit)) for unit in units} for op in ops]
    if costs.transfer or any(len(several) > 1 for several in times):
        return None
    return tuple(sizes.V * several.pop() for several in times)
