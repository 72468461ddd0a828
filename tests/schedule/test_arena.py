"""Offsets of values that overlap in time."""

from hypothesis import given, settings
from hypothesis import strategies as st

from seq1f1b_jax.schedule.lowering.arena import Interval, allocate, peak_load

_intervals = st.lists(
    st.builds(
        lambda start, length, size: Interval(start, start + length, size),
        st.integers(0, 20),
        st.integers(0, 10),
        st.integers(1, 9),
    ),
    max_size=25,
)


def _load_by_tick(intervals):
    ticks = range(40)
    return max(sum(i.size for i in intervals if i.start <= t <= i.end) for t in ticks)


@given(_intervals)
@settings(max_examples=200, deadline=None)
def test_no_two_alive_in_the_same_tick_overlap(intervals):
    offsets, total = allocate(intervals)
    for i, a in enumerate(intervals):
        assert 0 <= offsets[i] <= total - a.size
        for j, b in enumerate(intervals[:i]):
            if a.start <= b.end and b.start <= a.end:
                apart = offsets[i] + a.size <= offsets[j] or offsets[j] + b.size <= offsets[i]
                assert apart, (a, b)


@given(_intervals)
@settings(max_examples=200, deadline=None)
def test_total_lies_between_the_load_and_padding(intervals):
    load = _load_by_tick(intervals)
    assert peak_load(intervals) == load
    largest = max((i.size for i in intervals), default=0)
    most_alive = _load_by_tick([i._replace(size=1) for i in intervals])
    assert load <= allocate(intervals)[1] <= largest * most_alive


def test_a_place_is_free_only_after_the_tick_that_reads_it():
    assert allocate([Interval(0, 3, 1), Interval(3, 5, 1)])[1] == 2
    assert allocate([Interval(0, 3, 1), Interval(4, 5, 1)])[1] == 1


def test_promotion_finds_what_first_fit_by_start_does_not():
    # By start: 5 at 0, 3 at 5, then the second 3 on top; the two 3s fit under each other.
    intervals = [Interval(0, 1, 3), Interval(0, 9, 5), Interval(2, 9, 4)]
    assert allocate(intervals)[1] == peak_load(intervals) == 9
