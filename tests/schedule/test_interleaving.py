"""Virtual stages: why the groups are as they are, and why a ring does not exchange by parity."""

from dataclasses import replace

import pytest

from seq1f1b_jax.schedule import (
    Costs,
    Exchange,
    Plan,
    PlanError,
    make_plan,
    peak_units,
    simulate,
    validate,
)
from seq1f1b_jax.schedule.generators.interleaved import group_sizes
from seq1f1b_jax.schedule.generators.orders import (
    backward_order,
    forward_order,
    one_forward_one_backward,
)

COSTS = Costs(forward=1, backward=2)


def _plan(num_ranks, num_microbatches, num_chunks, **options):
    return make_plan(
        "seq1f1b-i",
        num_ranks=num_ranks,
        num_microbatches=num_microbatches,
        num_chunks=num_chunks,
        **options,
    )


def _published(num_ranks, num_microbatches, num_chunks, *, stages_per_rank=2, group):
    """The rule as it is published: groups of so many units, in order, the last one shorter."""
    sizes = num_microbatches, num_chunks

    def in_groups(order, stages):
        units = {stage: list(order(stage, *sizes)) for stage in stages}
        for first in range(0, num_microbatches * num_chunks, group):
            for stage in stages:
                yield from units[stage][first : first + group]

    ranks = tuple(
        one_forward_one_backward(
            tuple(in_groups(forward_order, stages)),
            tuple(in_groups(backward_order, stages[::-1])),
            num_warmup=(stages_per_rank - 1) * group + 2 * (num_ranks - rank - 1) + num_chunks - 1,
        )
        for rank in range(num_ranks)
        for stages in [range(rank, num_ranks * stages_per_rank, num_ranks)]
    )
    return Plan(
        "published",
        num_ranks,
        *sizes,
        ranks,
        stages_per_rank=stages_per_rank,
        exchange=Exchange.LOCKSTEP,
    )


@pytest.mark.parametrize("sizes", [(2, 2, 1), (4, 8, 1), (4, 4, 2), (4, 3, 4), (6, 6, 3)])
def test_where_the_published_rule_applies_ours_is_the_same(sizes):
    assert replace(_published(*sizes, group=sizes[0]), name="seq1f1b-i") == _plan(*sizes)


@pytest.mark.parametrize(
    "sizes",
    [
        *((1, 1, 2), (2, 2, 3), (4, 5, 3), (8, 8, 5)),  # C does not divide P
        *((5, 7, 1), (6, 8, 1), (8, 6, 2)),  # P does not divide M*C
    ],
)
def test_elsewhere_the_published_rule_may_deadlock_and_ours_runs(sizes):
    """A group that ends within a sequence goes backward before the sequence's last chunk."""
    with pytest.raises(PlanError, match="comes before|no rank can go on"):
        validate(_published(*sizes, group=sizes[0]))
    plan = _plan(*sizes)
    validate(plan)
    assert simulate(plan, COSTS, machine="executor").bubble == (sizes[0] - 1) * 3


@pytest.mark.parametrize(
    ("sizes", "published"), [((3, 4, 1), 13), ((4, 5, 1), 18), ((4, 5, 2), 16), ((4, 7, 1), 11)]
)
def test_where_its_last_group_is_short_the_published_rule_waits(sizes, published):
    assert simulate(_published(*sizes, group=sizes[0]), COSTS).bubble == published
    assert simulate(_plan(*sizes), COSTS).bubble == (sizes[0] - 1) * 3 < published


def test_groups_of_whole_microbatches_per_rank_have_the_same_bubble_and_twice_the_memory():
    """The published picture of Seq1F1B-I takes P*C units for a group."""
    picture, ours = _published(8, 16, 4, group=32), _plan(8, 16, 4)
    assert simulate(picture, COSTS).bubble == simulate(ours, COSTS).bubble == 7 * 3
    assert max(peak_units(picture)) == 32 + 14 + 4
    assert max(peak_units(ours)) == 8 + 14 + 4


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ((4, 8, 2), (2, 2, 2, 2)),
        ((4, 9, 2), (3, 2, 2, 2)),
        ((4, 7, 1), (7,)),
        ((4, 3, 8), (1, 1, 1)),
        ((4, 1, 1), (1,)),
        ((3, 5, 2), (3, 2)),
    ],
)
def test_groups_are_whole_sequences_of_at_least_as_many_units_as_ranks(sizes, groups):
    assert group_sizes(*sizes) == groups


@pytest.mark.parametrize("sizes", [(2, 4, 1), (4, 4, 4), (6, 6, 2), (8, 16, 4)])
@pytest.mark.parametrize("backward", [1, 2, 5])
def test_the_short_warmup_takes_the_same_time_on_the_asynchronous_machine(sizes, backward):
    costs = Costs(forward=1, backward=backward)
    short, long = _plan(*sizes, short_warmup=True), _plan(*sizes)
    assert simulate(short, costs).makespan == simulate(long, costs).makespan
    saved = [a - b for a, b in zip(peak_units(long), peak_units(short), strict=True)]
    assert saved == list(range(sizes[0] - 1, -1, -1))


@pytest.mark.parametrize(
    ("sizes", "figure"),
    [((2, 4, 1), 1.074), ((4, 4, 4), 1.171), ((8, 16, 4), 1.249), ((8, 64, 1), 1.257)],
)
def test_the_short_warmup_takes_longer_in_the_executor(sizes, figure):
    machines = ("executor", "asynchronous")
    executor, asynchronous = (
        simulate(_plan(*sizes, short_warmup=True), COSTS, machine=machine).makespan
        for machine in machines
    )
    assert executor / asynchronous == pytest.approx(figure, abs=5e-4)


@pytest.mark.parametrize(
    ("sizes", "figure"),
    [
        *(((2, 16, 4), 1.367), ((4, 16, 4), 1.366), ((6, 16, 4), 1.383), ((8, 16, 4), 1.390)),
        *(((2, 8, 1), 1.392), ((4, 16, 1), 1.410), ((6, 24, 1), 1.415), ((8, 32, 1), 1.418)),
    ],
)
def test_parity_fails_on_a_ring(sizes, figure):
    """1.36 to 1.42 of the asynchronous time at B=2F; in lock-step double ticks the ring takes 1.

    By parity a rank runs ahead of the next one by a fixed time, F down and B up. Along a line these
    add up; around a ring they would have to add up to nothing.
    """
    lockstep = _plan(*sizes)
    parity = replace(lockstep, exchange=Exchange.PARITY)
    asynchronous = simulate(parity, COSTS).makespan
    by_parity = simulate(parity, COSTS, machine="executor").makespan
    assert by_parity / asynchronous == pytest.approx(figure, abs=5e-4)
    assert simulate(lockstep, COSTS, machine="executor").makespan == asynchronous


@pytest.mark.parametrize("num_ranks", [3, 5])
def test_parity_has_no_pattern_for_an_odd_ring(num_ranks):
    parity = replace(_plan(num_ranks, 2 * num_ranks, 1), exchange=Exchange.PARITY)
    with pytest.raises(ValueError, match=f"ring of num_ranks={num_ranks}"):
        simulate(parity, COSTS, machine="executor")
