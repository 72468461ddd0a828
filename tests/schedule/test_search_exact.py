"""The search is right: its clock is the simulator's, its bound holds, so does its proof."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from seq1f1b_jax.explore.search import find_plan
from seq1f1b_jax.explore.search.bound import lower_bound
from seq1f1b_jax.explore.search.order_timer import OrderTimer
from seq1f1b_jax.explore.search.problem import Problem
from seq1f1b_jax.explore.search.seeds import exchanges, seeds
from seq1f1b_jax.schedule import (
    MACHINES,
    Costs,
    Op,
    Plan,
    PlanError,
    peak_units,
    simulate,
    validate,
)
from seq1f1b_jax.schedule.dependencies import execution_order


def random_costs(random, problem_stages, num_chunks, transfer=0):
    shape = problem_stages, num_chunks
    return Costs(
        forward=random.integers(1, 9, shape),
        backward=random.integers(9, 20, shape),
        weights=random.integers(1, 9, shape),
        transfer=transfer,
    )


# The clock of the search


def shuffled(plan, timer, random, num_orders):
    """Orders near a plan, most of them impossible; the first one is the plan."""
    rows = timer.rows(plan)
    noise = random.normal(0, 0.8, (num_orders, *rows.shape))
    noise[0] = 0
    order = np.argsort(np.arange(rows.shape[1]) + noise, axis=2)
    return np.take_along_axis(np.broadcast_to(rows, order.shape), order, 2)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("stages_per_rank", [1, 2])
@pytest.mark.parametrize("split", [False, True])
def test_its_clock_is_that_of_the_simulator(machine, stages_per_rank, split):
    random = np.random.default_rng(0)
    num_timed = num_refused = 0
    for num_ranks, num_microbatches, num_chunks in product((1, 2, 3), (2, 3), (1, 2)):
        kind = int(random.integers(3))
        costs = random_costs(random, num_ranks * stages_per_rank, num_chunks, kind)
        problem = Problem(
            num_ranks,
            num_microbatches,
            num_chunks,
            costs,
            stages_per_rank * num_chunks + 2,
            stages_per_rank=stages_per_rank,
            split=split,
            machine=machine,
        )
        for exchange in exchanges(problem):
            timer = OrderTimer(problem, exchange)
            plan = next(s.plan for s in seeds(problem) if s.plan.exchange is exchange)
            orders = shuffled(plan, timer, random, 24)
            for rows, makespan in zip(orders, timer.makespans(orders), strict=True):
                plan = timer.plan(rows)
                if is_possible(plan, problem.max_units):
                    assert simulate(plan, costs, machine=machine).makespan == makespan
                    assert lower_bound(problem) <= makespan
                    num_timed += 1
                else:
                    assert makespan == np.inf
                    num_refused += 1
    assert num_timed > 20
    assert num_refused > 20


def is_possible(plan, max_units):
    try:
        validate(plan)
    except PlanError:
        return False
    return max(peak_units(plan)) <= max_units


# Brute force on tiny cases


def all_rows(problem, rank, ascending):
    """Every order of a rank that respects its stages' needs and the cap.

    Ascending: equal actions in the order of their microbatches only.
    """
    actions, rows = problem.actions(rank), []

    def extend(row, held):
        if len(row) == len(actions):
            rows.append(tuple(row))
        for action in actions:
            after = problem.needs(action)
            if ascending and action.microbatch:
                after = (*after, replace(action, microbatch=action.microbatch - 1))
            now = held + (action.op is Op.F) - (action.op is problem.release_op)
            if action not in row and set(after) <= set(row) and now <= problem.max_units:
                extend([*row, action], now)

    extend([], 0)
    return rows


def brute_force(problem, *, ascending):
    """Least makespan of all orders, by the real simulator."""
    rows = [all_rows(problem, rank, ascending) for rank in range(problem.num_ranks)]
    makespans = []
    for ranks in product(*rows):
        for exchange in exchanges(problem):
            plan = Plan("any", *problem.sizes.values(), ranks, problem.stages_per_rank, exchange)
            if sum(1 for _ in execution_order(plan)) == sum(map(len, ranks)):
                makespan = simulate(plan, problem.costs, machine=problem.machine).makespan
                makespans.append(makespan)
    return min(makespans)


@pytest.mark.parametrize("machine", ["executor", "asynchronous"])
@pytest.mark.parametrize(
    ("case", "options", "ascending"),
    [
        ((2, 2, 1), {"max_units": 2}, False),
        ((3, 2, 1), {"max_units": 2}, False),
        ((2, 2, 2), {"max_units": 2}, False),
        ((2, 2, 1), {"max_units": 2, "split": True}, False),
        ((2, 2, 2), {"max_units": 3}, True),
        ((2, 2, 2), {"max_units": 4}, True),
        ((3, 3, 1), {"max_units": 2}, True),
        ((3, 3, 1), {"max_units": 3}, True),
        ((2, 3, 1), {"max_units": 2, "split": True}, True),
        ((2, 1, 2), {"max_units": 4, "stages_per_rank": 2}, True),
    ],
    ids=str,
)
def test_exhaustive_search_is_brute_force(case, options, ascending, machine):
    random = np.random.default_rng(sum(case))
    for transfer in (0, 1):
        costs = random_costs(random, case[0] * options.get("stages_per_rank", 1), case[2], transfer)
        problem = Problem(*case, costs, machine=machine, **options)
        result = find_plan(**problem.sizes, costs=costs, machine=machine, **options)
        assert result.makespan == brute_force(problem, ascending=ascending)
        assert result.exact


def test_lock_step_machine_is_searched_too():
    costs = Costs(forward=[1, 2], backward=[3, 4])
    problem = Problem(2, 2, 2, costs, 3, machine="lock-step")
    result = find_plan(**problem.sizes, costs=costs, max_units=3, machine="lock-step")
    assert result.exact
    assert result.makespan == brute_force(problem, ascending=True)
