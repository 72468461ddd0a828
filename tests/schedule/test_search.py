"""What the search finds: proofs that named schedules are optimal, and plans that beat them."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from seq1f1b_jax.explore.search import compare_named, draw_comparison, find_plan
from seq1f1b_jax.schedule import (
    Costs,
    Exchange,
    Plan,
    lower,
    make_plan,
    peak_units,
    replay,
    simulate,
    validate,
)

EQUAL = Costs(forward=1, backward=2)


def rising(num_chunks, ratio=2.1):
    """Chunks whose cost rises along the sequence; backward twice forward."""
    cost = np.linspace(1, ratio, num_chunks)
    return Costs(forward=cost, backward=2 * cost)


def slow_last_stage(num_ranks):
    """The last stage, which has the head, costs twice what the others do."""
    forward = np.ones((num_ranks, 1), int)
    forward[-1] = 2
    return Costs(forward=forward, backward=2 * forward)


def random_costs(random, problem_stages, num_chunks, transfer=0):
    shape = problem_stages, num_chunks
    return Costs(
        forward=random.integers(1, 9, shape),
        backward=random.integers(9, 20, shape),
        weights=random.integers(1, 9, shape),
        transfer=transfer,
    )


def sizes(num_ranks, num_microbatches, num_chunks):
    return {
        "num_ranks": num_ranks,
        "num_microbatches": num_microbatches,
        "num_chunks": num_chunks,
    }


def check_result(result, costs):
    """The plan runs like any other and takes what was reported."""
    plan = result.plan
    validate(plan)
    replay(lower(plan, (8,) * plan.num_chunks))
    assert max(peak_units(plan)) <= result.max_units
    assert plan.name == "search"
    assert simulate(plan, costs, machine=result.machine).makespan == result.makespan
    assert result.lower_bound <= result.makespan
    assert Plan.parse(plan.text()) == plan


# Named schedules that nothing can beat


@pytest.mark.parametrize("num_ranks", [1, 4, 8])
@pytest.mark.parametrize(("num_microbatches", "num_chunks"), [(8, 1), (8, 2), (16, 4)])
@pytest.mark.parametrize("costs", [EQUAL, Costs(forward=2, backward=5)])
@pytest.mark.parametrize(("name", "split"), [("seq1f1b", False), ("seq-zb-h1", True)])
def test_bound_proves_named_schedules_optimal(
    num_ranks, num_microbatches, num_chunks, costs, name, split
):
    if split:
        costs = replace(costs, weights=costs.forward, inputs=costs.forward)
    plan = make_plan(name, **sizes(num_ranks, num_microbatches, num_chunks))
    result = find_plan(**sizes(num_ranks, num_microbatches, num_chunks), costs=costs, split=split)
    assert result.makespan == simulate(plan, costs, machine="executor").makespan
    assert result.lower_bound == result.makespan
    assert (result.proof, result.exact) == ("bound", True)
    assert result.makespan == result.lower_bound
    assert result.max_units == max(peak_units(plan))
    check_result(result, costs)


def test_interleaved_schedule_is_optimal_too():
    result = find_plan(**sizes(4, 8, 2), costs=EQUAL, stages_per_rank=2)
    assert (result.proof, result.origin) == ("bound", "seq1f1b-i")
    assert result.makespan == 2 * 16 * 3 + 3 * 3  # V*M*C*(F+B) + (P-1)(F+B)
    check_result(result, EQUAL)


# Named schedules that the search beats


def best_named(result, costs):
    """The fastest schedule within the cap that splits its backwards if the plan found does."""
    found, *named = compare_named(result, costs)
    fair = [row for row in named if row.within_cap and row.split == found.split]
    return min((row.makespan for row in fair), default=None)


@pytest.mark.parametrize(
    ("case", "costs", "options", "figure"),
    [
        ((3, 3, 2), rising(2), {"max_units": 4}, 45.8 / 47.1),
        ((3, 3, 2), rising(2), {}, 45.8 / 47.1),
        ((3, 3, 2), rising(2), {"max_units": 5, "machine": "asynchronous"}, 40.8 / 47.1),
        ((2, 3, 2), rising(2), {"split": True}, None),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple | dict) else "",
)
def test_search_beats_every_named_schedule_and_proves_it(case, costs, options, figure):
    result = find_plan(**sizes(*case), costs=costs, **options)
    named = best_named(result, costs)
    assert result.makespan < named
    if figure is not None:
        assert result.makespan / named == pytest.approx(figure, abs=1e-3)
    assert (result.proof, result.origin) == ("exhaustive", "search")
    check_result(result, costs)


def test_one_more_unit_is_worth_a_tenth_of_the_time_where_chunks_differ():
    costs = rising(4)
    result = find_plan(**sizes(4, 8, 4), costs=costs, max_units=8)
    assert best_named(result, costs) == pytest.approx(213.9)  # seq1f1b, 7 units
    assert result.makespan < 191
    assert not result.exact
    check_result(result, costs)


def test_a_slow_last_stage_needs_fewer_units_than_seq1f1b_takes():
    costs = slow_last_stage(4)
    result = find_plan(**sizes(4, 8, 2), costs=costs, max_units=4)
    assert best_named(result, costs) is None
    assert result.proof == "bound"
    named = make_plan("seq1f1b", **sizes(4, 8, 2))
    assert max(peak_units(named)) == 5
    assert result.makespan == simulate(named, costs, machine="executor").makespan
    check_result(result, costs)


# Whatever is asked


@pytest.mark.parametrize("split", [False, True])
def test_never_slower_than_a_named_schedule_within_the_cap(split):
    random = np.random.default_rng(1)
    for case in [(1, 3, 2), (2, 1, 1), (2, 4, 1), (3, 2, 1), (2, 2, 2)]:
        costs = random_costs(random, case[0], case[2])
        for extra in (0, 2):
            cap = case[0] - 1 + case[2] + extra
            result = find_plan(**sizes(*case), costs=costs, max_units=cap, split=split)
            assert result.makespan <= best_named(result, costs)
            check_result(result, costs)


def test_fractions_stay_exact():
    costs = Costs(forward=Fraction(1, 3), backward=[Fraction(2, 3), Fraction(9, 7)])
    result = find_plan(**sizes(2, 2, 2), costs=costs, max_units=4)
    whole = Costs(forward=7, backward=[14, 27])
    assert isinstance(result.makespan, Fraction)
    expected = find_plan(**sizes(2, 2, 2), costs=whole, max_units=4).makespan
    assert result.makespan * 21 == expected


def test_same_question_same_plan():
    question = {**sizes(3, 4, 2), "costs": rising(2), "max_units": 5}
    first, again = find_plan(**question), find_plan(**question)
    assert first == again


def test_search_that_gives_up_claims_nothing():
    result = find_plan(**sizes(2, 4, 4), costs=rising(4), split=True)
    assert (result.proof, result.exact) == ("", False)
    assert 0.8 * result.makespan < result.lower_bound < result.makespan
    check_result(result, rising(4))


def test_comparison_says_how_far_each_schedule_is():
    costs = Costs(forward=[1, 2], backward=[2, 4])
    result = find_plan(**sizes(2, 2, 2), costs=costs, max_units=3)
    assert draw_comparison(compare_named(result, costs)).splitlines() == [
        "schedule                time  over search  units",
        "search                    27        1.000      3",
        "seq1f1b-lockstep          24        0.889      4  over the cap",
        "seq-zb-h1                 24        0.889      3  I and W",
        "terapipe                  27        1.000      4  over the cap",
        "seq1f1b                   27        1.000      3",
    ]
    split = find_plan(**sizes(2, 2, 2), costs=costs, max_units=3, split=True)
    assert "terapipe                  27        1.174      4  over the cap, whole B" in (
        draw_comparison(compare_named(split, costs))
    )


def test_comparison_holds_every_schedule_of_these_sizes():
    whole = find_plan(**sizes(2, 2, 1), costs=EQUAL)
    names = {row.name for row in compare_named(whole, EQUAL)}
    assert {"search", "gpipe", "1f1b", "seq1f1b", "1f1b-lockstep", "zb-h1"} <= names
    interleaved = find_plan(**sizes(2, 2, 2), costs=EQUAL, stages_per_rank=3)
    names = {row.name for row in compare_named(interleaved, EQUAL)}
    assert names == {"search", "seq1f1b-i"}
    assert interleaved.plan.exchange is Exchange.LOCKSTEP


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_units": 2}, "max_units=2 is too few.*allow at least 3"),
        ({"max_units": 5, "stages_per_rank": 2}, "max_units=5 is too few.* 2 stages.*at least 6"),
        ({"machine": "quantum"}, "machine='quantum' is unknown; use one of asynchronous"),
        ({"num_ranks": 0}, "num_ranks=0 must be at least 1"),
        ({"stages_per_rank": 0}, "stages_per_rank=0 must be at least 1"),
        ({"costs": Costs(forward=[1, 2], backward=2)}, r"shape \(2,\) does not fit"),
        ({"costs": Costs(forward=-1, backward=2)}, "the cost of F is -1, below 0"),
    ],
    ids=str,
)
def test_bad_questions_are_refused(options, message):
    question = {**sizes(2, 2, 3), "costs": EQUAL, **options}
    with pytest.raises(ValueError, match=message):
        find_plan(**question)
