"""Who meets whom: the pairs of a tick, and in which ticks a rank may send."""

from itertools import product

import pytest

from seq1f1b_jax.schedule import Exchange, Op, assign_ticks
from seq1f1b_jax.schedule.dependencies import message_source

PARITY, LOCKSTEP = Exchange.PARITY, Exchange.LOCKSTEP


@pytest.mark.parametrize(
    ("exchange", "tick", "num_ranks", "ring", "pairs"),
    [
        (PARITY, 0, 1, False, ()),
        (PARITY, 0, 4, False, ((0, 1), (2, 3), (1, 0), (3, 2))),
        (PARITY, 7, 4, False, ((1, 2), (2, 1))),
        (PARITY, 1, 4, True, ((1, 2), (3, 0), (2, 1), (0, 3))),
        (LOCKSTEP, 0, 3, False, ((0, 1), (1, 2))),
        (LOCKSTEP, 1, 3, False, ((1, 0), (2, 1))),
        (LOCKSTEP, 0, 3, True, ((0, 1), (1, 2), (2, 0))),
        (LOCKSTEP, 1, 3, True, ((1, 0), (2, 1), (0, 2))),
        (LOCKSTEP, 1, 1, True, ((0, 0),)),
    ],
)
def test_pairs(exchange, tick, num_ranks, ring, pairs):
    assert exchange.pairs(tick, num_ranks=num_ranks, ring=ring) == pairs


@pytest.mark.parametrize(
    ("exchange", "ring"), [(PARITY, False), (LOCKSTEP, False), (LOCKSTEP, True), (PARITY, True)]
)
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 7, 8])
def test_whoever_may_send_has_a_pair_to_send_to(exchange, ring, num_ranks):
    if exchange is PARITY and ring:
        num_ranks += num_ranks % 2
    for tick, rank, op in product(range(2), range(num_ranks), (Op.F, Op.B, Op.I)):
        pairs = exchange.pairs(tick, num_ranks=num_ranks, ring=ring)
        assert len(set(pairs)) == len(pairs)
        for side in zip(*pairs, strict=True):
            assert len(set(side)) == len(side), "no rank stands twice on a side"
        to = rank + 1 if op is Op.F else rank - 1
        if ring:
            to %= num_ranks
        if 0 <= to < num_ranks and exchange.tick_class(op, rank) == tick:
            assert (rank, to) in pairs


def test_messages_that_nobody_reads_in_the_next_tick_travel_late(cases):
    assert (PARITY.late, LOCKSTEP.late) == (False, True)
    for case in cases[::3]:
        if case.plan.exchange.late:
            ticks = assign_ticks(case.plan)
            for action, tick in ticks.items():
                source = message_source(action, num_stages=case.plan.num_stages)
                assert source is None or ticks[source] + 2 <= tick, case


@pytest.mark.parametrize("num_ranks", [1, 3, 5])
def test_an_odd_ring_has_no_two_colouring(num_ranks):
    with pytest.raises(ValueError, match=f"ring of num_ranks={num_ranks} .* even number"):
        PARITY.pairs(0, num_ranks=num_ranks, ring=True)


def test_an_unknown_pattern_is_refused():
    with pytest.raises(ValueError, match="exchange='star' is unknown; use one of parity, lockstep"):
        Exchange.parse("star")
