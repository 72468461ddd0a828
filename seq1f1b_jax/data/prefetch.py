"""The batches of the coming steps, made while the device computes."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Iterates over `make(index)` for every index, in order, some of them made ahead in a thread.

    What `make` raises is raised where its item would have come. Leaving the `with` block waits for
    the item that is being made, and drops what was made and not asked for.

    Args:
      make: makes one item; called in one thread, in the order of the indices.
      indices: what to make.
      depth: items made ahead, at most.

    Attributes:
      waited_seconds: how long the loop has stood still for items that were not ready, in all.

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
        self._order(self._depth)
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
        self._order(1)
        return item

    def _order(self, count: int) -> None:
        """Put the next `count` items to work; one that is taken makes room for one."""
        for index in islice(self._indices, count):
            self._coming.append(self._pool.submit(self._make, index))
