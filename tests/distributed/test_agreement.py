"""Whichever process is asked, and whenever: all stop after the same step."""

import signal
from itertools import product

from seq1f1b_jax.distributed import ALONE
from seq1f1b_jax.host.interrupt import Agreement, StopRequest
from tests.distributed.test_group import groups

NUM_STEPS = 5


def asked_at(step):
    """A stop request that arrives during `step`; None: never."""
    return (None, StopRequest()) if step is None else (step, StopRequest())


def interleavings(num_steps, ahead):
    """Orders of the checks after steps: a process is at most `ahead` steps before the other.

    That is what a step's collectives allow: nobody ends a step that another has not begun.
    """

    def grow(done, order):
        if min(done) == num_steps:
            yield tuple(order)
        for who in (0, 1):
            after = done[who] + 1
            if after <= num_steps and after - min(done) <= ahead:
                yield from grow((after, done[1]) if who == 0 else (done[0], after), [*order, who])

    yield from grow((0, 0), [])


def last_steps(order, signals):
    """After which step each of two processes stops; `order` has who checks next."""
    stops = [StopRequest(), StopRequest()]
    members = [Agreement(*both) for both in zip(groups(2), stops, strict=True)]
    step, last = [0, 0], [None, None]
    for who in order:
        if last[who] is not None:
            continue
        if last[1 - who] is not None and step[who] > last[1 - who]:
            return last[1 - who], None  # it waits for ever in a step that the other does not run
        if signals[who] == step[who]:
            stops[who].signal = signal.SIGTERM
        if members[who].is_last(step[who]):
            last[who] = step[who]
        step[who] += 1
    return tuple(last)


def test_both_stop_after_the_same_step_in_every_order_and_for_every_signal():
    orders = list(interleavings(NUM_STEPS, ahead=1))
    assert len(orders) == 2**NUM_STEPS
    for order, *signals in product(orders, [None, 0, 1, 2], [None, 0, 1, 2]):
        first, second = last_steps(order, signals)
        assert first == second, (order, signals)
        asked = [step for step in signals if step is not None]
        assert (first is None) == (not asked), (order, signals)
        if asked:
            assert min(asked) <= first <= min(asked) + 1, (order, signals)


def test_alone_the_step_is_the_last():
    stop = StopRequest()
    agreement = Agreement(ALONE, stop)
    assert not agreement.is_last(0)
    stop.signal = signal.SIGINT
    assert agreement.is_last(1)
