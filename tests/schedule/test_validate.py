"""The validator finds every fault put into a plan, and nothing else."""

from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from itertools import combinations, pairwise

import pytest

from seq1f1b_jax.schedule import Action, Op, PlanError, make_plan, parse_grid, validate
from seq1f1b_jax.schedule.dependencies import dependencies

NAMES = ["terapipe", "seq1f1b", "seq1f1b-i", "seq-zb-h1"]


def _small(name="seq1f1b", **sizes):
    defaults = {"num_ranks": 2, "num_microbatches": 2, "num_chunks": 2}
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

    def backward(s, m, c):
        return next(a for op in (Op.B, Op.I) if (a := Action(op, s, m, c)) in graph)

    for row in plan.ranks:
        for before, action in pairwise(row):
            graph[action].add(before)
    last_stage, last_chunk = plan.num_ranks * plan.stages_per_rank - 1, plan.num_chunks - 1
    for action, needs in graph.items():
        op, s, m, c = action.op, action.stage, action.microbatch, action.chunk
        if op is Op.W:
            needs.add(Action(Op.I, s, m, c))
        elif op is Op.F:
            needs |= {Action(Op.F, s - 1, m, c)} if s > 0 else set()
            needs |= {Action(Op.F, s, m, c - 1)} if c > 0 else set()
        else:
            needs.add(Action(Op.F, s, m, c))
            needs |= {backward(s + 1, m, c)} if s < last_stage else set()
            needs |= {backward(s, m, c + 1)} if c < last_chunk else set()
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


@pytest.mark.parametrize("name", NAMES)
def test_every_dropped_action_is_found(name):
    plan = _small(name)
    for rank, row in enumerate(plan.ranks):
        for index, action in enumerate(row):
            # an I or W alone: the other half is beside a missing B, or is missing itself
            named = replace(action, op=Op.B) if action.op is Op.I else action
            with pytest.raises(PlanError, match=f">{named.text(rank)}<") as caught:
                validate(_with_row(plan, rank, (*row[:index], *row[index + 1 :])))
            end = len(row) - 1
            assert f"rank {rank}, action {end}: {named.text(rank)} is missing" in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_duplicated_action_is_found(name):
    plan = _small(name)
    for rank, row in enumerate(plan.ranks):
        for index, action in enumerate(row):
            with pytest.raises(PlanError) as caught:
                validate(_with_row(plan, rank, (*row, action)))
            text = action.text(rank)
            reason = f"rank {rank}, action {len(row)}: {text} has run already, as action {index}"
            assert reason in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_misplaced_action_is_found(name):
    plan = _small(name)
    for rank, row in enumerate(plan.ranks):
        for index, action in enumerate(row):
            for stage in (action.stage ^ 1, action.stage + 8):
                wrong = replace(action, stage=stage)
                rule = f"stage s is on rank s mod P, so rank {rank} of 2 runs"
                reported = f"action {index}: .* of stage {stage} of .*; {rule}"
                with pytest.raises(PlanError, match=reported):
                    validate(_with_row(plan, rank, (*row[:index], wrong, *row[index + 1 :])))


@pytest.mark.parametrize("sizes", [{}, {"num_ranks": 3, "num_chunks": 1}], ids=["C=2", "P=3"])
@pytest.mark.parametrize("name", NAMES)
def test_swapped_actions_are_found_exactly_when_the_plan_cannot_run(name, sizes):
    plan = _small(name, **sizes)
    verdicts = []
    for rank in range(plan.num_ranks):
        for i, j in combinations(range(len(plan.ranks[rank])), 2):
            swapped = _swapped(plan, rank, i, j)
            verdicts.append(_can_run(swapped))
            assert _is_accepted(swapped) == verdicts[-1], swapped.text()
    assert set(verdicts) == {True, False}


@pytest.mark.parametrize(
    ("grid", "reported"),
    [
        ("rank 0  F0.1 F0.0 B0.1 B0.0", "rank 0, action 0: F0.1 comes before F0.0; a chunk"),
        ("rank 0  F0.0 F0.1 B0.0 B0.1", "rank 0, action 2: B0.0 comes before B0.1; keys"),
        ("rank 0  F0.0 F0.1 B0.0 I0.1 W0.1", "rank 0, action 2: B0.0 comes before I0.1; keys"),
        ("rank 0  F0.0 B0.1 F0.1 B0.0", "rank 0, action 1: B0.1 comes before F0.1; a backward"),
        ("rank 0  F0.0 W0.0 I0.0", "rank 0, action 1: W0.0 comes before I0.0; weight"),
        ("rank 0  F0.0 B0.0 W0.0", "rank 0, action 2: W0.0 is beside B0.0; a backward is one"),
        ("rank 0  F0.0 I0.0 B0.0 W0.0", "rank 0, action 2: B0.0 has run already, as action 1"),
        ("rank 0  F0.0 I0.0", "rank 0, action 2: W0.0 is missing"),
        (
            "rank 0  F0.0 B0.0 F1.0 B1.0\nrank 1  F0.0 F1.0 B0.0 B1.0",
            "rank 0 waits with B0.0 for B0.0 of rank 1; rank 1 waits with F1.0 for F1.0 of rank 0",
        ),
        ("rank 0  F0.0 F0.1 B0.1", "rank 0, action 3: B0.0 is missing"),
        ("rank 0  F0.0 F0.0@1 B0.0@1", "rank 0, action 3: B0.0 is missing"),
        ("rank 0  F0.0@1 F0.0 B0.0@1 B0.0", "rank 0 waits with F0.0@1 for F0.0 of rank 0"),
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
    plan = _small(num_ranks=3, num_chunks=3)
    forward = dependencies(Action(Op.F, 1, 0, 1), plan)
    assert set(forward) == {Action(Op.F, 1, 0, 0), Action(Op.F, 0, 0, 1)}
    for op in (Op.B, Op.I):  # what a B waits for may have been served by an I
        backward = dependencies(Action(op, 1, 0, 1), plan)
        assert set(backward) == {
            Action(Op.F, 1, 0, 1),
            Action(Op.B, 1, 0, 2),
            Action(Op.B, 2, 0, 1),
        }
    assert dependencies(Action(Op.F, 0, 0, 0), plan) == ()
    assert dependencies(Action(Op.B, 2, 1, 2), plan) == (Action(Op.F, 2, 1, 2),)
    assert dependencies(Action(Op.W, 1, 0, 1), plan) == (Action(Op.B, 1, 0, 1),)


def test_several_stages_per_rank_depend_on_each_other_across_the_wrap():
    plan = _small("seq1f1b-i")
    assert Action(Op.F, 1, 0, 0) in dependencies(Action(Op.F, 2, 0, 0), plan)
    assert Action(Op.B, 2, 0, 1) in dependencies(Action(Op.B, 1, 0, 1), plan)
