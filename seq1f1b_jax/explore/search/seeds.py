"""Where the search starts: the named schedules, and one-forward-one-backward under any cap."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from seq1f1b_jax.explore.search.problem import Problem
from seq1f1b_jax.schedule.actions import Action, Op
from seq1f1b_jax.schedule.exchange import Exchange
from seq1f1b_jax.schedule.generators.orders import (
    backward_order,
    forward_order,
    one_forward_one_backward,
)
from seq1f1b_jax.schedule.plan import Plan, peak_units
from seq1f1b_jax.schedule.registry import SCHEDULES, make_plan

SEARCH = "search"
"""Name of a plan that is no named schedule."""


class Seed(NamedTuple):
    """A plan to start from.

    Attributes:
      plan: valid, and within the cap.
      origin: the named schedule that it is, or `search`.
    """

    plan: Plan
    origin: str


def named_plans(problem: Problem) -> Iterator[Plan]:
    """Yield the plan of every schedule of the registry that exists at these sizes."""
    for name, schedule in SCHEDULES.items():
        interleaves = schedule.takes("stages_per_rank")
        if interleaves == (problem.stages_per_rank > 1) and (
            problem.num_chunks == 1 or schedule.chunked_name is None
        ):
            options = {"stages_per_rank": problem.stages_per_rank} if interleaves else {}
            with suppress(ValueError):  # a user's generator need not take all sizes
                yield make_plan(name, **problem.sizes, **options)


def exchanges(problem: Problem) -> tuple[Exchange, ...]:
    """Patterns that a plan of this problem may have; the asynchronous machine knows none."""
    if problem.stages_per_rank > 1:
        return (Exchange.LOCKSTEP,)
    return (Exchange.PARITY,) if problem.machine == "asynchronous" else tuple(Exchange)


def seeds(problem: Problem) -> tuple[Seed, ...]:
    """Collect plans within the cap: the named ones first, each order under every exchange."""
    named = [plan for plan in named_plans(problem) if is_split(plan) == problem.split]
    found = [Seed(plan, plan.name) for plan in named]
    for plan in (*named_plans(problem), *_variants(problem)):
        if not is_split(plan) or problem.split:
            row = plan.ranks if is_split(plan) == problem.split else split_backwards(plan)
            found += [
                Seed(replace(plan, name=SEARCH, ranks=row, exchange=exchange), SEARCH)
                for exchange in exchanges(problem)
            ]
    return tuple(seed for seed in found if max(peak_units(seed.plan)) <= problem.max_units)


def is_split(plan: Plan) -> bool:
    """Whether the plan's backwards are split."""
    return any(action.op is Op.I for row in plan.ranks for action in row)


def split_backwards(plan: Plan) -> tuple[tuple[Action, ...], ...]:
    """Rows with an `I` and a `W` for each `B`."""
    return tuple(
        tuple(
            part
            for action in row
            for part in (
                (replace(action, op=Op.I), replace(action, op=Op.W))
                if action.op is Op.B
                else (action,)
            )
        )
        for row in plan.ranks
    )


def _variants(problem: Problem) -> Iterator[Plan]:
    """Plans without a name: one microbatch after another, and warm-ups of other lengths."""
    yield _plan(problem, tuple(_one_by_one(problem, rank) for rank in range(problem.num_ranks)))
    if problem.stages_per_rank > 1:
        options = {"stages_per_rank": problem.stages_per_rank, "short_warmup": True}
        yield make_plan("seq1f1b-i", **problem.sizes, **options)
        return
    steps = {0, *(factor * 2**k for k in range(7) for factor in (1, 3))}
    for extra in sorted(step for step in steps if step <= problem.max_units - problem.num_chunks):
        for slope in (1, 2):
            yield _plan(
                problem,
                tuple(_windowed(problem, p, slope, extra) for p in range(problem.num_ranks)),
            )


def _plan(problem: Problem, ranks: tuple[tuple[Action, ...], ...]) -> Plan:
    return Plan(
        SEARCH,
        *problem.sizes.values(),
        ranks,
        stages_per_rank=problem.stages_per_rank,
        exchange=exchanges(problem)[0],
    )


def _one_by_one(problem: Problem, rank: int) -> tuple[Action, ...]:
    """All of a microbatch forward and back, then the next: what takes least memory."""
    stages = problem.stages(rank)
    sizes = problem.num_microbatches, problem.num_chunks
    actions = [a for stage in stages for a in forward_order(stage, *sizes)]
    actions += [a for stage in stages[::-1] for a in backward_order(stage, *sizes)]
    return tuple(sorted(actions, key=lambda action: action.microbatch))


def _windowed(problem: Problem, rank: int, slope: int, extra: int) -> tuple[Action, ...]:
    """Warm-ups that grow by `slope` from rank to rank, as far as the cap allows."""
    sizes = problem.num_microbatches, problem.num_chunks
    warmup = problem.num_chunks - 1 + slope * (problem.num_ranks - rank - 1) + extra
    return one_forward_one_backward(
        tuple(forward_order(rank, *sizes)),
        tuple(backward_order(rank, *sizes)),
        num_warmup=min(warmup, problem.max_units - 1),
    )
