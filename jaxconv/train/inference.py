"""Whole images of any size through a run's network: exact tiles, test-time flips and scales."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from flax import nnx

from jaxconv._accelerate import accelerate
from jaxconv.analysis import TilingRefused, tiled
from jaxconv.analysis.tiling.tiled import TILES
from jaxconv.train.reading import resize_image, resize_labels
from jaxconv.train.record import Preprocessing
from jaxconv.train.segment import LARGE, best_class, network_function

FLIPS = {"none": ((1, 1),), "horizontal": ((1, 1), (1, -1)), "both": ((1, 1), (1, -1), (-1, 1), (-1, -1))}


class Inference:
    """Label maps and probabilities of images of any size, as from the whole image.

    Args:
        model: of a run, in evaluation mode.
        record: its preprocessing.
        tile: pixels of a tile's side; None for 512 (of volumes 96) where an image has more than 2^20 pixels, 0 for
            whole images.
        flips: "horizontal" means over the image and its mirror image, "both" over all four flips, of the last two axes.
        scales: the means are also over the image resized by these.
        say: receives a sentence where a network cannot be computed tile by tile.

    Raises:
        ValueError: an option outside of its range; on a call, a ``tile`` for a network that cannot be cut.
    """

    def __init__(
        self,
        model: nnx.Module,
        record: Preprocessing,
        *,
        tile: int | None = None,
        flips: str = "none",
        scales: Sequence[float] = (1.0,),
        say: Callable[[str], None] = print,
    ):
        if tile is not None and tile < 0:
            raise ValueError(f"tile={tile} must be a number of pixels, or 0 for whole images")
        if flips not in FLIPS:
            raise ValueError(f"flips={flips!r} must be one of {', '.join(FLIPS)}")
        if not scales or not all(1 / 16 <= scale <= 16 for scale in scales):
            raise ValueError(f"scales={tuple(scales)} must be factors within 1/16..16")
        graph, self._state = nnx.split(model)
        self._record, self._tile, self._say = record, tile, say
        self._variants = [(flip, scale) for scale in scales for flip in FLIPS[flips]]
        functions = [network_function(graph, record, probabilities) for probabilities in (False, True)]
        self._whole = [accelerate(function) for function in functions]
        self._tiled = [tiled(function, tile or TILES[record.rank], statistics=True) for function in functions]

    def labels(self, pixels: Any) -> np.ndarray:
        """The class of each pixel, (*spatial), or the masks, (*spatial, classes), of an image (*spatial, channels): an
        array, a memmap or a `Lazy` one."""
        if self._variants != [((1, 1), 1.0)]:
            return best_class(self.probabilities(pixels), self._record, 0.5)
        sized = resize_image(pixels, self._record.size or pixels.shape[:-1])
        return resize_labels(self._computed(0, sized), pixels.shape[:-1])

    def probabilities(self, pixels: Any) -> np.ndarray:
        """The classes' probabilities, (*spatial, classes) float32: the mean over flips and scales."""
        sized = resize_image(pixels, self._record.size or pixels.shape[:-1])
        total: np.ndarray | None = None
        for (down, right), scale in self._variants:
            size = tuple(max(1, round(n * scale)) for n in sized.shape[:-1])
            flip = (..., slice(None, None, down), slice(None, None, right), slice(None))
            found = self._computed(1, resize_image(sized, size)[flip])
            part = resize_image(found[flip], sized.shape[:-1])
            if total is None:  # of a large image it is the largest thing in memory: no copy
                total = part
            else:
                total = np.add(total, part, out=total if total.flags.writeable else None)
        assert total is not None  # there is one variant at least
        if len(self._variants) > 1:
            total = total / np.float32(len(self._variants))
        return resize_image(total, pixels.shape[:-1])

    def _computed(self, which: int, pixels: Any) -> np.ndarray:
        """Labels (``which`` 0) or probabilities of an image as large as the network was made for, (*spatial, ...)."""
        image, size = _Padded(pixels, self._record.size_multiple), tuple(map(slice, pixels.shape[:-1]))
        large = math.prod(image.shape[1:-1]) > LARGE if self._tile is None else self._tile > 0
        if large:
            try:
                return self._tiled[which](image, self._state)[0][size]
            except TilingRefused as refusal:
                if self._tile:
                    raise ValueError(f"tile={self._tile}: {refusal}; give 0 to compute whole images") from None
                self._say(f"computed whole, not in tiles: {refusal}")
                self._tile = 0
        return np.asarray(self._whole[which](image[(slice(None),) * image.ndim], self._state))[0][size]


class _Padded:
    """An image (*spatial, channels) with a first axis, its edge repeated up to the next multiples; read in parts."""

    def __init__(self, pixels: Any, multiple: int):
        self._pixels = pixels
        *spatial, channels = pixels.shape
        self.shape = (1, *(-(-n // multiple) * multiple for n in spatial), channels)
        self.ndim, self.dtype = len(self.shape), pixels.dtype

    def __getitem__(self, where: tuple[slice, ...]) -> np.ndarray:
        first, pads = [], []
        for part, size, padded in zip(where[1:-1], self._pixels.shape, self.shape[1:], strict=False):
            start, stop, _ = part.indices(padded)
            low = min(start, size - 1)  # a part beyond the edge repeats the edge
            first.append(slice(low, min(stop, size)))
            pads.append((max(0, min(start, size) - low), max(0, stop - max(size, start))))
        return np.pad(np.asarray(self._pixels[tuple(first)]), [*pads, (0, 0)], "edge")[None]
