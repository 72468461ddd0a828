"""The validator accepts every generated plan and finds every fault put into one."""

from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from itertools import combinations, pairwise

import pytest

from seq1f1b_jax.schedule import Action, Op, PlanError, make_plan, parse_grid, validate
from seq1f1b_jax.schedule.dependencies import dependencies


def _small(name="seq1f1b", **sizes):
    defaults = {"num_stages": 2, "num_microbatches": 2, "num_chunks": 2}
    return make_plan(name, **(defaults | sizes))


def _with_row(plan, rank, row):
    ranks = list(plan.ranks)
    ranks[rank] = tuple(row)
    return replace(plan, ranks=tuple(ranks))


def _swapped(plan, rank, i, j):
    row = list(plan.ranks[rank])
    row[i], row[j] = row[j], row[i]
    return _with_row(plan, rank, row)


def _can_run(plan):
    """The slow twin: a plan runs if its dependencies and its ranks' orders form no cycle."""
    graph = {action: set() for row in plan.ranks for action in row}
    for row in plan.ranks:
        for before, action in pairwise(row):
            graph[action].add(before)
    last_stage, last_chunk = plan.num_stages - 1, plan.num_chunks - 1
    for action in graph:
        op, s, m, c = action.op, action.stage, action.microbatch, action.chunk
        if op is Op.F and s > 0:
            graph[action].add(Action(Op.F, s - 1, m, c))
        if op is Op.F and c > 0:
            graph[action].add(Action(Op.F, s, m, c - 1))
        if op is Op.B:
            graph[action].add(Action(Op.F, s, m, c))
        if op is Op.B and s < last_stage:
            graph[action].add(Action(Op.B, s + 1, m, c))
        if op is Op.B and c < last_chunk:
            graph[action].add(Action(Op.B, s, m, c + 1))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        return False
    return True


def _is_accepted(plan):
    try:
        validate(plan)
    except PlanError:
        return False
    return True


def test_every_generated_plan_is_valid(plans):
    for plan in plans:
        validate(plan)
        assert sum(map(len, plan.ranks)) == (
            plan.num_stages * plan.num_units * (1 if plan.forward_only else 2)
        )


@pytest.mark.parametrize("name", ["gpipe", "seq1f1b"])
def test_every_dropped_action_is_found(name):
    plan = _small(name)
    for rank, row in enumerate(plan.ranks):
        for index, action in enumerate(row):
            with pytest.raises(PlanError, match=f">{action.text(rank)}<") as caught:
                validate(_with_row(plan, rank, (*row[:index], *row[index + 1 :])))
            assert f"rank {rank}, action 7: {action.text(rank)} is missing" in str(caught.value)


def test_every_duplicated_action_is_found():
    plan = _small()
    for rank, row in enumerate(plan.ranks):
        for index, action in enumerate(row):
            with pytest.raises(PlanError) as caught:
                validate(_with_row(plan, rank, (*row, action)))
            reason = (
                f"rank {rank}, action 8: {action.text(rank)} has run already, as action {index}"
            )
            assert reason in str(caught.value)


def test_every_misplaced_action_is_found():
    plan = _small()
    for rank, row in enumerate(plan.ranks):
        for index, action in enumerate(row):
            elsewhere = replace(action, stage=1 - rank)
            with pytest.raises(PlanError, match=f"rank {rank}, action {index}: .*stage {1 - rank}"):
                validate(_with_row(plan, rank, (*row[:index], elsewhere, *row[index + 1 :])))


@pytest.mark.parametrize("sizes", [{}, {"num_stages": 3, "num_chunks": 1}])
@pytest.mark.parametrize("name", ["gpipe", "seq1f1b"])
def test_swapped_actions_are_found_exactly_when_the_plan_cannot_run(name, sizes):
    plan = _small(name, **sizes)
    verdicts = []
    for rank in range(plan.num_stages):
        for i, j in combinations(range(len(plan.ranks[rank])), 2):
            swapped = _swapped(plan, rank, i, j)
            verdicts.append(_can_run(swapped))
            assert _is_accepted(swapped) == verdicts[-1], swapped.text()
    assert set(verdicts) == {True, False}


@pytest.mark.parametrize(
    ("grid", "reported"),
    [
        ("rank 0  F0.1 F0.0 B0.1 B0.0", "rank 0, action 0: F0.1 stands before F0.0; a chunk"),
        ("rank 0  F0.0 F0.1 B0.0 B0.1", "rank 0, action 2: B0.0 stands before B0.1; keys"),
        ("rank 0  F0.0 B0.1 F0.1 B0.0", "rank 0, action 1: B0.1 stands before F0.1; a backward"),
        (
            "rank 0  F0.0 B0.0 F1.0 B1.0\nrank 1  F0.0 F1.0 B0.0 B1.0",
            "rank 0 waits with B0.0 for B0.0 of rank 1; rank 1 waits with F1.0 for F1.0 of rank 0",
        ),
        ("rank 0  F0.0 F0.1 B0.1", "rank 0, action 3: B0.0 is missing"),
        ("rank 0  F0.0 F0.1 F0.0 B0.1 B0.0", "rank 0, action 2: F0.0 has run already, as action 0"),
    ],
)
def test_message_says_where_and_why(grid, reported):
    with pytest.raises(PlanError) as caught:
        validate(parse_grid(grid, name="hand"))
    assert reported in str(caught.value)


def test_bad_cell_is_marked_in_the_grid():
    with pytest.raises(PlanError) as caught:
        validate(parse_grid("rank 0  F0.0 F0.1 B0.0 B0.1", name="hand"))
    assert str(caught.value).splitlines()[1:] == ["rank 0  F0.0   F0.1   >B0.0< B0.1"]


@pytest.mark.parametrize(
    ("size", "reported"), [("num_microbatches", "F1.0 is outside"), ("num_chunks", "F0.1 is")]
)
def test_units_outside_the_sizes_are_found(size, reported):
    with pytest.raises(PlanError, match=reported):
        validate(replace(_small(), **{size: 1}))


def test_dependencies_are_those_of_the_method():
    plan = _small(num_stages=3, num_chunks=3)
    forward = dependencies(Action(Op.F, 1, 0, 1), plan)
    backward = dependencies(Action(Op.B, 1, 0, 1), plan)
    assert set(forward) == {Action(Op.F, 1, 0, 0), Action(Op.F, 0, 0, 1)}
    assert set(backward) == {
        Action(Op.F, 1, 0, 1),
        Action(Op.B, 1, 0, 2),
        Action(Op.B, 2, 0, 1),
    }
    assert dependencies(Action(Op.F, 0, 0, 0), plan) == ()
    assert dependencies(Action(Op.B, 2, 1, 2), plan) == (Action(Op.F, 2, 1, 2),)
