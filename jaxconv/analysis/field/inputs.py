"""Which images a function is probed with: values that it was made for, since a trained network is used to no others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

_PIXELS = 100_000  # of the given images; the colours of more say nothing new


@dataclass(frozen=True)
class Inputs:
    """Images of one shape whose values come from a range, from given images, or from a normal distribution.

    `low` and `high` are the range of every channel (None: standard normal), `pixels` the colours of given images, and
    `said` names the source. `assumed` says that nobody gave it.
    """

    shape: tuple[int, ...]
    dtype: Any
    axes: tuple[int, ...]
    said: str
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    pixels: np.ndarray | None = None
    images: tuple[np.ndarray, ...] = ()
    assumed: bool = False

    def flat(self, draws: int, seed: int) -> list[np.ndarray]:
        """Images that are the same everywhere, at levels that cover the range: grey and coloured ones in turn."""
        rng = np.random.default_rng(seed)
        levels = (np.arange(draws) + 0.5) / draws
        shape = self._colour
        if self.pixels is not None:
            order = np.argsort(self.pixels.reshape(len(self.pixels), -1).mean(axis=1), kind="stable")
            colours = self.pixels[order[(levels * len(order)).astype(int)]]
        elif self.low is None or self.high is None:
            colours = rng.standard_normal((draws, *shape))
        else:
            share = np.broadcast_to(levels.reshape(-1, *(1,) * len(shape)), (draws, *shape)).copy()
            share[1::2] = rng.permuted(share[1::2], axis=0)
            colours = self.low + share * (self.high - self.low)
        return [self._spread(c) for c in colours]

    def noise(self, seed: int) -> np.ndarray:
        """An image whose pixels differ: the given one, shifted around by some pixels, or pixels drawn one by one."""
        rng = np.random.default_rng(seed)
        same = [i for i in self.images if i.shape == self.shape]
        if same:
            image = same[seed % len(same)]
            shifts = [int(rng.integers(self.shape[a])) for a in self.axes]
            return np.roll(image, shifts, self.axes).astype(self.dtype)
        rows = [n for a, n in enumerate(self.shape) if self._moves(a)]
        if self.pixels is not None:
            values = self.pixels[rng.integers(len(self.pixels), size=rows)]
        elif self.low is None or self.high is None:
            return rng.standard_normal(self.shape).astype(self.dtype)
        else:
            values = self.low + rng.random((*rows, *self._colour)) * (self.high - self.low)
        moving = [a for a in range(len(self.shape)) if self._moves(a)]
        return np.moveaxis(values, range(len(moving)), moving).astype(self.dtype)

    def _moves(self, axis: int) -> bool:
        return axis in self.axes or axis == 0

    @property
    def _colour(self) -> tuple[int, ...]:
        """The shape of one pixel."""
        return tuple(n for a, n in enumerate(self.shape) if not self._moves(a))

    def _spread(self, colour: np.ndarray) -> np.ndarray:
        shape = [1 if self._moves(a) else n for a, n in enumerate(self.shape)]
        return np.broadcast_to(np.asarray(colour).reshape(shape).astype(self.dtype), self.shape)


def inputs_for(
    image: Any,
    axes: Sequence[int],
    input_range: tuple[Any, Any] | None = None,
    images: Any = None,
) -> Inputs:
    """The images to probe a function with.

    Args:
        image: its first argument, an array or a shape. Of an array that isn't the same everywhere the values are used.
        axes: its spatial axes.
        input_range: (lowest, highest) value that the function is made for, numbers or one for each channel.
        images: images that it is made for: an array, or several, with the image's axes and any spatial size; a batch of
            more than the image's is several.

    Returns:
        An `Inputs`. Where nothing is known: 0..1 for images of 1, 3 or 4 channels, 0..255 for bytes, else a standard
        normal distribution, as of latent codes.

    Raises:
        ValueError: range or images that do not fit the image; both at once.

    Example:
        >>> inputs = inputs_for(jax.ShapeDtypeStruct((1, 4, 4, 1), np.float32), (1, 2), input_range=(-1, 1))
        >>> [float(i[0, 0, 0, 0]) for i in inputs.flat(4, seed=0)][::2]
        [-0.75, 0.25]
    """
    axes = tuple(axes)
    empty = Inputs(tuple(image.shape), image.dtype, axes, "")
    colour = empty._colour
    if input_range is not None and images is not None:
        raise ValueError("give input_range= or images=, not both")
    if images is None and input_range is None and not isinstance(image, jax.ShapeDtypeStruct):
        given = np.asarray(image)
        if given.size and (given != given.flat[0]).any():
            images = given
    if images is not None:
        return _of_images(empty, images)
    assumed = input_range is None
    said = "the given range"
    if input_range is None:
        if np.issubdtype(image.dtype, np.integer) or image.dtype == bool:
            input_range = (0, 255) if image.dtype == np.uint8 else (0, 1) if image.dtype == bool else (0, 127)
        elif int(np.prod(colour)) in (1, 3, 4):
            input_range = (0.0, 1.0)
        else:
            return Inputs(empty.shape, empty.dtype, axes, "a standard normal distribution", assumed=True)
        said = f"the range {input_range[0]:g} to {input_range[1]:g}"
    low, high = _range(input_range, colour)
    if not assumed:
        said = f"the range {_number(low)} to {_number(high)}"
    return Inputs(empty.shape, empty.dtype, axes, said, low, high, assumed=assumed)


def _number(values: np.ndarray) -> str:
    return f"{values.min():g}" if values.min() == values.max() else f"({', '.join(f'{v:.3g}' for v in values.ravel())})"


def _range(given: Any, colour: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    try:
        low, high = (np.broadcast_to(np.asarray(v, np.float64), colour) for v in given)
    except (TypeError, ValueError):
        raise ValueError(
            f"input_range={given!r} must be (lowest, highest), each a number or one for every channel {colour}"
        ) from None
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise ValueError(f"input_range={given!r}: the lowest value must be below the highest, both finite")
    return low, high


def _of_images(empty: Inputs, images: Any) -> Inputs:
    several = images if isinstance(images, (list, tuple)) else [images]
    if not several:
        raise ValueError("images= holds no image")
    rows, arrays = [], []
    for given in several:
        array = np.asarray(given)
        fits = array.ndim == len(empty.shape) and array.size
        if not fits or any(array.shape[a] != n for a, n in enumerate(empty.shape) if not empty._moves(a)):
            raise ValueError(
                f"images= of shape {array.shape} do not fit an image of shape {empty.shape}: all but the first and the "
                f"spatial axes {empty.axes} must agree"
            )
        if not np.isfinite(array.astype(np.float64)).all():
            raise ValueError("images= hold values that are not finite")
        moving = [a for a in range(array.ndim) if empty._moves(a)]
        flat = np.moveaxis(array, moving, range(len(moving))).reshape(-1, *empty._colour)
        rows.append(flat[:: max(len(flat) // _PIXELS, 1)])
        batch = len(array) if 0 in empty.axes else min(empty.shape[0], len(array))
        arrays += [array[i : i + batch] for i in range(0, len(array) - batch + 1, batch)]
    said = "the given image" if len(arrays) == 1 else f"the {len(arrays)} given images"
    return Inputs(empty.shape, empty.dtype, empty.axes, said, pixels=np.concatenate(rows), images=tuple(arrays))
