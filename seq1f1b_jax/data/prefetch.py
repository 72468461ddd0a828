"""Batches of the next steps, made while the device computes."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Iterates over `make(index)` for every index, in order, working ahead in a thread.

    An exception from `make` is raised in place of its item. Leaving the `with` block waits for the
    item in progress and drops those that were not consumed.

    Args:
      make: makes one item; called in one thread, in the order of the indices.
      indices: arguments of `make`.
      depth: maximum number of items made ahead.

    Attributes:
      waited_seconds: total time that the consumer has waited for items.

    Example:
      >>> from seq1f1b_jax.data import Prefetcher
      >>> with Prefetcher(lambda step: step * step, range(4)) as items:
      ...     list(items)
      [0, 1, 4, 9]
    """

    def __init__(self, make: Callable[[int], Item], indices: Iterable[int], *, depth: int = 2):
        self.waited_seconds = 0.0
        self._make, self._indices, self._depth = make, iter(indices), depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._coming: deque[Future[Item]] = deque()

    def __enter__(self) -> "Prefetcher[Item]":
        self._submit(self._depth)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if not self._coming:
            raise StopIteration
        began = time.perf_counter()
        item = self._coming.popleft().result()
        self.waited_seconds += time.perf_counter() - began
        self._submit(1)
        return item

    def _submit(self, count: int) -> None:
        """Submit the next `count` items."""
        for index in islice(self._indices, count):
            self._coming.append(self._pool.submit(self._make, index))
