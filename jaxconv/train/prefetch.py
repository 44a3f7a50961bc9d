"""Data prepared by a thread while the device computes."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetch(make: Callable[[int], T], start: int, stop: int, depth: int = 3) -> Iterator[T]:
    """Yields ``make(start) .. make(stop - 1)`` in order, up to ``depth`` ahead, made by one thread.

    An exception in ``make`` is raised here. Closing the iterator (or leaving its loop) ends the thread.

    >>> list(prefetch(lambda i: i * i, 2, 5))
    [4, 9, 16]
    """
    made: queue.Queue[tuple] = queue.Queue(depth)
    ended = threading.Event()

    def put(item: tuple[T | None, BaseException | None]) -> None:
        while not ended.is_set():
            try:
                return made.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for index in range(start, stop):
                if ended.is_set():
                    return
                put((make(index), None))
        except BaseException as error:  # handed over: the reader raises it
            put((None, error))

    thread = threading.Thread(target=work, name="jaxconv-prefetch", daemon=True)
    thread.start()
    try:
        for _ in range(start, stop):
            item, error = made.get()
            if error is not None:
                raise error
            yield item
    finally:
        ended.set()
        thread.join()
