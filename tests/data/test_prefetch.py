"""Batches made ahead: in order, a few at a time, errors where they belong."""

import threading

import pytest

from seq1f1b_jax.data import Prefetcher


def test_items_come_in_order_and_only_depth_are_made_ahead():
    made, third = [], threading.Event()

    def make(index):
        made.append(index)
        if index == 2:
            third.set()
        return index * index

    with Prefetcher(make, range(50), depth=2) as items:
        assert next(items) == 0
        assert third.wait(10)  # taking one made room for the third
        assert made == [0, 1, 2]
        assert [next(items) for _ in range(3)] == [1, 4, 9]
        assert list(items) == [index * index for index in range(4, 50)]
        assert items.waited_seconds >= 0
    assert made == list(range(50))


def test_an_error_comes_where_its_item_would_have():
    def make(index):
        if index == 2:
            raise ValueError("item 2 is bad")
        return index

    with Prefetcher(make, range(9)) as items:
        assert [next(items), next(items)] == [0, 1]
        with pytest.raises(ValueError, match="item 2 is bad"):
            next(items)


def test_leaving_early_ends_the_thread():
    with Prefetcher(lambda index: index, iter(int, 1)) as items:  # endless
        assert next(items) == 0
    assert not [thread for thread in threading.enumerate() if "prefetch" in thread.name]


def test_makes_in_another_thread():
    with Prefetcher(lambda _: threading.get_ident(), range(1)) as items:
        assert next(items) != threading.get_ident()
