"""Plans of no named schedule: any order that can run is lowered, replayed and timed."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from seq1f1b_jax.schedule import (
    MACHINES,
    Action,
    Costs,
    Exchange,
    Op,
    Plan,
    assign_ticks,
    lower,
    peak_units,
    replay,
    simulate,
    validate,
)
from seq1f1b_jax.schedule.dependencies import dependencies


@st.composite
def plans(draw):
    """Take any action that can run, until none is left: a random order of work of every rank."""
    num_ranks, num_microbatches, num_chunks = (draw(st.integers(1, 3)) for _ in range(3))
    stages_per_rank = draw(st.integers(1, 3))
    exchange = draw(st.sampled_from(Exchange)) if stages_per_rank == 1 else Exchange.LOCKSTEP
    empty = Plan(
        "random",
        num_ranks,
        num_microbatches,
        num_chunks,
        ((),) * num_ranks,
        stages_per_rank=stages_per_rank,
        exchange=exchange,
    )
    choice = draw(st.randoms(use_true_random=False))
    waiting, done, ranks = _all_actions(empty, choice), set(), [[] for _ in range(num_ranks)]
    while waiting:
        action = choice.choice([a for a in waiting if done.issuperset(dependencies(a, empty))])
        waiting.remove(action)
        done.add(action.event)
        ranks[empty.rank(action.stage)].append(action)
    return replace(empty, ranks=tuple(map(tuple, ranks)))


def _all_actions(plan, choice):
    """Every unit's forward and backward, the latter split or not, in the order of a coin."""
    actions = []
    for stage in range(plan.num_stages):
        for microbatch in range(plan.num_microbatches):
            for chunk in range(plan.num_chunks):
                backward = choice.choice([(Op.B,), (Op.I, Op.W)])
                actions += [Action(op, stage, microbatch, chunk) for op in (Op.F, *backward)]
    return actions


_costs = st.builds(
    lambda forward, inputs, weights, transfer: Costs(
        forward=forward,
        backward=inputs + weights,
        inputs=inputs,
        weights=weights,
        transfer=transfer,
    ),
    *(st.integers(1, 9),) * 3,
    st.integers(0, 3),
)


@given(plans(), st.lists(st.integers(1, 9), min_size=3, max_size=3))
@settings(max_examples=100, deadline=None)
def test_whatever_can_run_is_lowered_and_replayed(plan, lengths):
    validate(plan)
    assert Plan.parse(plan.text()) == plan
    table = lower(plan, lengths[: plan.num_chunks])
    replay(table)
    for tokens, peak in zip(table.arena_tokens_per_rank, peak_units(plan), strict=True):
        assert tokens <= peak * max(lengths)


@given(plans())
@settings(max_examples=100, deadline=None)
def test_ranks_keep_their_order_on_the_ticks(plan):
    ticks = assign_ticks(plan)
    assert len(ticks) == sum(map(len, plan.ranks))
    for row in plan.ranks:
        sending = [ticks[a] for a in row if a.op is not Op.W]
        weights = [ticks[a] for a in row if a.op is Op.W]
        assert sending == sorted(set(sending)), "at most one that sends in a tick"
        assert weights == sorted(set(weights)), "and at most one W"
        order = sorted(row, key=lambda a: (ticks[a], a.op is Op.W))
        assert order == list(row), "in a tick the W comes last"


@given(plans(), _costs)
@settings(max_examples=100, deadline=None)
def test_machines_that_wait_for_more_take_longer(plan, costs):
    free = replace(costs, transfer=0)
    times = [simulate(plan, free, machine=machine).makespan for machine in MACHINES]
    assert times == sorted(times)
    for machine in MACHINES:
        assert simulate(plan, costs, machine=machine).makespan >= times[MACHINES.index(machine)]


@given(plans(), _costs)
@settings(max_examples=100, deadline=None)
def test_times_respect_all_dependencies_and_add_up(plan, costs):
    cost = costs.per_action(plan.num_stages, plan.num_chunks)
    work = Counter()
    for row in plan.ranks:
        for action in row:
            work[plan.rank(action.stage)] += cost(action)
    for machine in MACHINES:
        simulation = simulate(plan, costs, machine=machine)
        ends = {
            action.event: end for action, end in simulation.ends.items() if action.op is not Op.W
        }
        for action, start in simulation.starts.items():
            assert simulation.ends[action] - start == cost(action)
            for event in dependencies(action, plan):
                elsewhere = plan.rank(event.stage) != plan.rank(action.stage)
                assert start >= ends[event] + costs.transfer * elsewhere, (machine, action)
        assert simulation.busy == tuple(work[rank] for rank in range(plan.num_ranks))


@given(plans(), _costs)
@settings(max_examples=100, deadline=None)
def test_the_critical_path_has_no_gaps_but_transfers(plan, costs):
    for machine in MACHINES:
        simulation = simulate(plan, costs, machine=machine)
        starts, ends, path = simulation.starts, simulation.ends, simulation.critical_path
        gaps = [starts[after] - ends[before] for before, after in pairwise(path)]
        work = sum(ends[action] - starts[action] for action in path)
        assert starts[path[0]] + work + sum(gaps) == simulation.makespan
        for gap in [starts[path[0]], *gaps]:
            assert gap % costs.transfer == 0 if costs.transfer else gap == 0, machine
        if machine == "asynchronous":
            assert set(gaps) <= {0, costs.transfer}
