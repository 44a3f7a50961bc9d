"""Training examples cut at random from whole images, decoded once, ahead of the steps."""

import collections
import concurrent.futures
import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from jaxconv.train.augment import Augment
from jaxconv.train.record import Preprocessing

T = TypeVar("T")


class Kept:
    """Decoded pairs by number, as many as fit into ``limit`` bytes; labels in 8 or 16 bits where that is enough."""

    def __init__(self, limit: int | None = None):
        self._pairs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._left = min(4 << 30, _memory() // 4) if limit is None else limit
        self._lock = threading.Lock()

    def get(self, number: int, read: Callable[[], tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """The pair that was kept, or is read now; nobody may write into it."""
        pair = self._pairs.get(number)
        if pair is None:
            image, labels = read()
            kind = np.result_type(*(np.min_scalar_type(value) for value in (labels.min(), labels.max())))
            pair = image, labels.astype(kind, copy=False)
            with self._lock:
                if number not in self._pairs and self._left >= (size := pair[0].nbytes + pair[1].nbytes):
                    self._left -= size
                    self._pairs[number] = pair
        return pair


def _memory() -> int:
    """Bytes of the machine's memory; 4 GiB where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 4 << 30


@functools.cache
def readers() -> concurrent.futures.ThreadPoolExecutor:
    """The threads that decode images."""
    return concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1, "jaxconv-read")


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, epoch]).permutation(count)


@dataclasses.dataclass(frozen=True)
class Crops:
    """Random crops of whole images, for training.

    Decoded images are kept, as far as a quarter of the machine's memory goes and at most 4 GiB: later passes only cut.
    A batch is read by as many threads as there are cores, and is the same whatever they do.

    Args:
        images: names of the images.
        read: image number to the image (*spatial, channels) and its classes (*spatial), or a mask of each class
            (*spatial, classes); called by several threads.
        record: what the labels may be and how many channels an image has.
        crop: (height, width) or (depth, height, width) of training crops; smaller images are padded with
            ``ignore_index`` labels.
        seed: seed of order, crops and augmentation.
        augment: what else is done to them.

    Raises:
        ValueError: ``crop`` is larger than an image and the record has no ignored index (found when it is read).
    """

    images: Sequence[str]
    read: Callable[[int], tuple[np.ndarray, np.ndarray]]
    record: Preprocessing
    crop: tuple[int, ...]
    seed: int = 0
    _kept: Kept = dataclasses.field(default_factory=Kept, repr=False, compare=False)
    augment: Augment = Augment(("hflip",))

    def batch(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Training examples ``start .. start + count - 1``: a function of (seed, index) alone."""
        pairs = list(readers().map(self.example, range(start, start + count)))
        images = [image for image, _ in pairs]
        return np.stack(images).astype(np.result_type(*images), copy=False), np.stack([labels for _, labels in pairs])

    def names(self, start: int, count: int) -> list[str]:
        """The files that `batch` reads its images from."""
        return [self.images[self._number(index)] for index in range(start, start + count)]

    def _number(self, index: int) -> int:
        epoch, place = divmod(index, len(self.images))
        return int(_order(self.seed, epoch, len(self.images))[place])

    def example(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Training example ``index``: each pass over the images has its own random order."""
        number = self._number(index)
        image, labels = self._kept.get(number, lambda: self.read(number))
        rng = np.random.default_rng([self.seed, 1, index])
        image, labels = self._pad(image, labels, self.images[number])
        return self.augment.example(image, labels, self.crop, rng, self.record.ignore_index)

    def _pad(self, image: np.ndarray, labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
        lacking = [max(0, c - n) for c, n in zip(self.crop, labels.shape, strict=False)]
        if not any(lacking):
            return image, labels
        if self.record.ignore_index is None:
            raise ValueError(
                f"image {name} is {image.shape[:-1]}, smaller than crops of {self.crop}; choose a smaller crop, or an "
                "ignore_index to pad with"
            )
        pads = [(0, n) for n in lacking]
        whole = [(0, 0)] * (labels.ndim - len(pads))
        padded = np.pad(labels.astype(np.int32), pads + whole, constant_values=self.record.ignore_index)
        return np.pad(image, [*pads, (0, 0)], "edge"), padded


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
