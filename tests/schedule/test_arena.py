"""Offsets of values that overlap in time."""

from hypothesis import given, settings
from hypothesis import strategies as st

from seq1f1b_jax.schedule import lower, make_plan
from seq1f1b_jax.schedule.lowering import arena
from seq1f1b_jax.schedule.lowering.arena import allocate, peak_load
from seq1f1b_jax.schedule.lowering.blocks import Owner
from seq1f1b_jax.schedule.lowering.in_time import pack_in_time
from seq1f1b_jax.schedule.lowering.packing import Interval

_intervals = st.lists(
    st.builds(
        lambda start, length, size: Interval(start, start + length, size),
        st.integers(0, 20),
        st.integers(0, 10),
        st.integers(1, 9),
    ),
    max_size=25,
)


_sizes = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def _overlap(intervals, offsets):
    """Two that are alive in the same tick and share an address."""
    for i, a in enumerate(intervals):
        for j, b in enumerate(intervals[:i]):
            if a.start <= b.end and b.start <= a.end:
                if offsets[i] < offsets[j] + b.size and offsets[j] < offsets[i] + a.size:
                    return a, b
    return None


def _microbatches(sizes, *, delay, num=7, lines=1):
    """Chunks forward ascending, each stage `delay` chunks later backward descending."""
    lives = {}
    for microbatch in range(num):
        for stage in range(lines):
            begin = 2 * (microbatch * lines + stage) * len(sizes)
            for chunk, size in enumerate(sizes):
                last = begin + 2 * (delay + len(sizes) - 1 - chunk) + 1
                lives[Owner(stage, microbatch, chunk)] = Interval(begin + 2 * chunk, last, size)
    return list(lives), list(lives.values())


def _load_by_tick(intervals):
    ticks = range(40)
    return max(sum(i.size for i in intervals if i.start <= t <= i.end) for t in ticks)


@given(_intervals)
@settings(max_examples=200, deadline=None)
def test_no_two_alive_in_the_same_tick_overlap(intervals):
    offsets, total = allocate(intervals)
    assert _overlap(intervals, offsets) is None
    assert all(0 <= o <= total - i.size for o, i in zip(offsets, intervals, strict=True))


@given(_sizes, st.integers(0, 12), st.integers(1, 2), st.data())
@settings(max_examples=60, deadline=None)
def test_nor_if_places_are_shared_by_turns(sizes, delay, lines, data):
    owners, intervals = _microbatches(sizes, delay=delay, lines=lines)
    late = data.draw(st.integers(0, 3))  # and some live longer than those before
    intervals = [i._replace(end=i.end + late * (n % 5 == 2)) for n, i in enumerate(intervals)]
    offsets, total = allocate(intervals, owners=owners)
    assert _overlap(intervals, offsets) is None
    assert total == max(o + i.size for o, i in zip(offsets, intervals, strict=True))
    assert peak_load(intervals) <= total <= allocate(intervals)[1]


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


@given(_intervals.filter(len), st.integers(-3, 3))
@settings(max_examples=200, deadline=None)
def test_what_is_packed_in_time_fits_into_the_height(intervals, more):
    height = peak_load(intervals) + more
    found = pack_in_time(intervals, height)
    if found is not None:
        assert _overlap(intervals, found.offsets) is None
        assert peak_load(intervals) <= found.total <= height and min(found.offsets) >= 0


def test_eight_unequal_chunks_take_hardly_more_than_is_alive():
    """30b at 65,536 tokens; stacks in two blocks took 5 % more."""
    lengths = (13440, 10368, 8832, 7808, 7040, 6400, 6016, 5632)
    plan = make_plan("seq1f1b", num_ranks=8, num_microbatches=16, num_chunks=8)
    table = lower(plan, lengths)
    assert table.arena_bound <= table.arena_tokens <= 1.005 * table.arena_bound


def test_two_stacks_that_grow_towards_each_other_share_their_room(monkeypatch):
    """Two rooms of a microbatch each; single values in any order that is tried take 23."""
    monkeypatch.setattr(arena, "pack_in_time", lambda values, height: None)
    owners, intervals = _microbatches((5, 3, 2), delay=4)
    assert allocate(intervals).total == 23
    offsets, total = allocate(intervals, owners=owners)
    assert total == peak_load(intervals) == 20
    assert _overlap(intervals, offsets) is None


def test_what_is_enough_ends_the_search():
    owners, intervals = _microbatches((9, 5, 3, 2), delay=5)
    assert allocate(intervals, owners=owners).total == 38
    assert allocate(intervals, owners=owners, enough=38).total == 38
    assert allocate(intervals, owners=owners, enough=100).total > 38


def test_the_same_values_get_the_same_places_every_time():
    """Every process of a run lowers its own table."""
    owners, intervals = _microbatches((9, 5, 3, 2), delay=6)
    assert allocate(intervals, owners=owners) == allocate(intervals, owners=owners)
