"""What every named schedule costs in closed form: units in flight and waiting time. Exact.

With P ranks, M microbatches, C chunks, V stages, U = M*C units, p the rank, and F, B = I+W
the times of one unit on one stage:

    schedule                   units in flight on rank p               bubble
    gpipe, terapipe            U                                       (P-1)(F+B)
    1f1b, seq1f1b              min(P-p-1+C, U)                         (P-1)(F+B)
    the same, lockstep         min(2(P-p-1)+C, U)                      (P-1)(F+B)
    1f1b-i, seq1f1b-i          min((V-1)g + 2(P-p-1)+C, V*U)           (P-1)(F+B), for U >= P
    the same, short warm-up    min((V-1)g + P-p-1+C, V*U)              (P-1)(F+B), for U >= P
    zb-h1, seq-zb-h1           min(P-1+C, U)                           (P-1)(F+I-W), see below

`extra_warmup` adds itself to the units of seq1f1b and nothing to its bubble. g is the number of
units of the first group: P where C divides P and P divides U (`interleaved.group_sizes`). Fewer
units than ranks leave a gap in each of the V rounds: another `(V-1)(P-U)(F+B)`. The bubble of ZB-H1
is `max((P-1)F, (P-1)(F+I) - min((M-1)C, P-1) min(F, W))`, which is `(P-1)(F+I-W)` where W is the
shortest of the three and `(M-1)C >= P-1`.

Simulation agrees to the last digit, on the machines that `ClosedForm.machines` names. Units of
unequal cost and messages that take time have no closed form here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.generators.interleaved import group_sizes, interleaved
from seq1f1b_jax.schedule.generators.seq1f1b import seq1f1b, seq1f1b_lockstep
from seq1f1b_jax.schedule.generators.terapipe import terapipe
from seq1f1b_jax.schedule.generators.zero_bubble import zero_bubble_h1
from seq1f1b_jax.schedule.plan import Plan
from seq1f1b_jax.schedule.registry import find_schedule
from seq1f1b_jax.schedule.simulation.durations import Costs
from seq1f1b_jax.schedule.simulation.simulate import MACHINES


@dataclass(frozen=True)
class ClosedForm:
    """What the formulas say of one schedule at given sizes and costs.

    Attributes:
      peak_units: units of one stage in flight on each rank at its fullest, for any costs.
      peak_rule: the formula in letters.
      bubble: time by which the step exceeds the work of a rank; None where units differ in cost or
        messages take time.
      bubble_rule: the formula in letters, the simplest that holds at these sizes and costs; where
        `bubble` is None, why.
      work: time that each rank computes; None as the bubble.
      machines: of `MACHINES`, those on which the bubble was seen to hold; no other is promised.
    """

    peak_units: tuple[int, ...]
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
      name: a key of `SCHEDULES`.
      costs: of the actions, as for `simulate`; stages are virtual ones.
      num_ranks: ranks of the pipeline P. This and what follows is as `make_plan` takes it, which
        checks it.
      num_microbatches: sequence batches per step M.
      num_chunks: slices of each sequence C.
      stages_per_rank: stages per rank V.
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
    sizes = _Sizes(
        num_ranks, num_microbatches, num_chunks, stages_per_rank, extra_warmup, short_warmup
    )
    in_flight, peak_rule = _IN_FLIGHT[schedule.generate](sizes)
    num_actions = sizes.V * sizes.U
    peak_units = tuple(min(units, num_actions) for units in in_flight)
    split = schedule.generate is zero_bubble_h1
    times = _unit_times(costs, sizes, ops=(Op.F, Op.I, Op.W) if split else (Op.F, Op.B))
    if times is None:
        reason = "none: units differ in cost, or messages take time"
        return ClosedForm(peak_units, peak_rule, None, reason, None, ())
    bubble, bubble_rule, machines = _BUBBLE[schedule.generate](sizes, *times)
    work = num_actions * sum(times)
    return ClosedForm(peak_units, peak_rule, bubble, bubble_rule, work, machines)


class _Sizes(NamedTuple):
    """The sizes by the letters of the formulas."""

    P: int
    M: int
    C: int
    V: int
    extra_warmup: int
    short_warmup: bool

    @property
    def U(self) -> int:
        """Units of a step."""
        return self.M * self.C

    @property
    def distances(self) -> range:
        """`P-p-1` for each rank: how far it is from the last one."""
        return range(self.P - 1, -1, -1)


def _unit_times(costs: Costs, sizes: _Sizes, *, ops: Sequence[Op]) -> tuple[Any, ...] | None:
    """The one time of each operation; None where there is more than one."""
    cost = costs.per_action(sizes.P * sizes.V, sizes.C)
    units = [(stage, 0, chunk) for stage in range(sizes.P * sizes.V) for chunk in range(sizes.C)]
    times = [{cost(Action(op, *unit)) for unit in units} for op in ops]
    if costs.transfer or any(len(several) > 1 for several in times):
        return None
    return tuple(several.pop() for several in times)


InFlight = tuple[list[int], str]
"""Units of each rank, before the limit that is all of them, and the rule in letters."""


def _all_in_flight(sizes: _Sizes) -> InFlight:
    return [sizes.U] * sizes.P, "M*C"


def _in_flight(sizes: _Sizes) -> InFlight:
    extra = f"+{sizes.extra_warmup}" if sizes.extra_warmup else ""
    units = [distance + sizes.C + sizes.extra_warmup for distance in sizes.distances]
    return units, f"min(P-p-1+C{extra}, M*C)"


def _lockstep_in_flight(sizes: _Sizes) -> InFlight:
    return [2 * distance + sizes.C for distance in sizes.distances], "min(2(P-p-1)+C, M*C)"


def _interleaved_in_flight(sizes: _Sizes) -> InFlight:
    group = sizes.C * group_sizes(sizes.P, sizes.M, sizes.C)[0]
    ahead = (sizes.V - 1) * group + sizes.C
    if sizes.short_warmup:
        rule = f"min((V-1)g+P-p-1+C, V*M*C), g={group}"
        return [ahead + distance for distance in sizes.distances], rule
    rule = f"min((V-1)g+2(P-p-1)+C, V*M*C), g={group}"
    return [ahead + 2 * distance for distance in sizes.distances], rule


def _zero_bubble_in_flight(sizes: _Sizes) -> InFlight:
    return [sizes.P - 1 + sizes.C] * sizes.P, "min(P-1+C, M*C)"


_IN_FLIGHT: Mapping[Callable[..., Plan], Callable[[_Sizes], InFlight]] = MappingProxyType(
    {
        terapipe: _all_in_flight,
        seq1f1b: _in_flight,
        seq1f1b_lockstep: _lockstep_in_flight,
        interleaved: _interleaved_in_flight,
        zero_bubble_h1: _zero_bubble_in_flight,
    }
)

Bubble = tuple[Any, str, tuple[str, ...]]
"""Time, the rule in letters, and the machines it holds on."""


def _bubble(sizes: _Sizes, F: Any, B: Any) -> Bubble:
    return (sizes.P - 1) * (F + B), "(P-1)(F+B)", MACHINES[:2]


def _lockstep_bubble(sizes: _Sizes, F: Any, B: Any) -> Bubble:
    return (sizes.P - 1) * (F + B), "(P-1)(F+B)", MACHINES


def _interleaved_bubble(sizes: _Sizes, F: Any, B: Any) -> Bubble:
    machines = MACHINES[:1] if sizes.short_warmup else MACHINES
    if sizes.U >= sizes.P:
        return (sizes.P - 1) * (F + B), "(P-1)(F+B)", machines
    gaps = (sizes.V - 1) * (sizes.P - sizes.U)
    return (sizes.P - 1 + gaps) * (F + B), "(P-1+(V-1)(P-M*C))(F+B)", machines


def _zero_bubble_bubble(sizes: _Sizes, F: Any, I: Any, W: Any) -> Bubble:  # noqa: E741
    machines = MACHINES[:2] if W <= max(F, I) else MACHINES[:1]
    num_filled = min((sizes.M - 1) * sizes.C, sizes.P - 1)
    bubble = max((sizes.P - 1) * F, (sizes.P - 1) * (F + I) - num_filled * min(F, W))
    if num_filled == sizes.P - 1 and W <= min(F, I):
        return bubble, "(P-1)(F+I-W)", machines
    return bubble, "max((P-1)F, (P-1)(F+I)-min((M-1)C, P-1)min(F, W))", machines


_BUBBLE: Mapping[Callable[..., Plan], Callable[..., Bubble]] = MappingProxyType(
    {
        terapipe: _bubble,
        seq1f1b: _bubble,
        seq1f1b_lockstep: _lockstep_bubble,
        interleaved: _interleaved_bubble,
        zero_bubble_h1: _zero_bubble_bubble,
    }
)
