"""Data prepared by a thread while the device computes."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetch(make: Callable[[int], T], start: int, stop: int, depth: int = 3) -> Iterator[T]:
    """Yields ``make(start) .. make(stop - 1)`` in order, up to ``depth`` ahead, made by one thread.

    An exception in ``make`` is raised here. Closing the iterator (or leaving its loop) ends the thread.

    >>> list(prefetch(lambda i: i * i, 2, 5))
    [4, 9, 16]
    """
    pool = concurrent.futures.ThreadPoolExecutor(1, "jaxconv-prefetch")
    ahead: collections.deque[concurrent.futures.Future[T]] = collections.deque()
    try:
        for index in range(start, stop + depth):
            if index < stop:
                ahead.append(pool.submit(make, index))
            if index >= start + depth:
                yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
