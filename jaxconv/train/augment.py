"""Training examples cut and changed at random; each is a function of its own random generator alone."""

import dataclasses
import math

import numpy as np

_BARE = ("hflip", "vflip", "rot90")
_RANGES = {"rotate": (0.0, 180.0), "colour": (0.0, 1.0), "elastic": (0.0, 1000.0), "scale": (1 / 16, 16.0)}


@dataclasses.dataclass(frozen=True)
class Augment:
    """What is done to an image (*spatial, channels) and its labels, at random.

    Args:
        flips: the image is mirrored along its last ("hflip") or last but one axis ("vflip"), or both are exchanged and
            mirrored ("rot90", square crops).
        rotate: largest angle in degrees, in the plane of the last two axes.
        scale: smallest and largest factor of the size.
        colour: strength of changes of brightness and contrast, and of the colour where there are three channels: by at
            most this share of white, and factors of at most ``exp(colour)``.
        elastic: pixels by which neighbourhoods of 32 pixels are moved (their standard deviation).
    """

    flips: tuple[str, ...] = ()
    rotate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    colour: float = 0.0
    elastic: float = 0.0

    @classmethod
    def of(cls, text: str) -> "Augment":
        """From words with ``+`` between them: hflip, vflip, rot90, rotate=DEGREES, scale=LOW:HIGH, colour=STRENGTH,
        elastic=PIXELS; or "none".

        Raises:
            ValueError: no such word, one that comes twice, or a number out of its range.

        >>> Augment.of("hflip+rotate=15+scale=0.5:2")
        Augment(flips=('hflip',), rotate=15.0, scale=(0.5, 2.0), colour=0.0, elastic=0.0)
        """
        found: dict[str, tuple[float, ...]] = {}
        for part in () if text == "none" else text.split("+"):
            name, _, given = (word.strip() for word in part.partition("="))
            try:
                numbers = tuple(float(word) for word in given.split(":")) if given else ()
            except ValueError:
                numbers = (math.nan,)
            low, high = _RANGES.get(name, (0.0, 0.0))
            legal = len(numbers) == (0 if name in _BARE else 2 if name == "scale" else 1) and name not in found
            if not (name in _BARE or name in _RANGES) or not legal or not all(low <= n <= high for n in numbers):
                raise ValueError(
                    f"augment={text!r}: {part!r} is none of hflip, vflip, rot90, rotate=0..180, scale=LOW:HIGH within "
                    "1/16..16, colour=0..1, elastic=PIXELS up to 1000, or comes twice"
                )
            found[name] = numbers
        low, high = found.pop("scale", (1.0, 1.0))
        if low > high:
            raise ValueError(f"augment={text!r}: scale={low:g}:{high:g} must be LOW:HIGH")
        numbers_of = {name: values[0] for name, values in found.items() if values}
        return cls(flips=tuple(name for name in _BARE if name in found), scale=(low, high), **numbers_of)

    def example(
        self,
        image: np.ndarray,
        labels: np.ndarray,
        crop: tuple[int, ...],
        rng: np.random.Generator,
        ignore_index: int | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A crop of an image and its labels (*spatial) or (*spatial, classes), as large as ``crop`` at least.

        What is seen beyond the image repeats its edge and has the ignored label, or is its mirror image where no label
        is ignored.
        """
        rank = len(crop)
        if self.rotate or self.elastic or self.scale != (1.0, 1.0):
            where = self._places(image.shape[:rank], crop, rng)
            image, labels = (_seen(array, where, order, ignore_index) for order, array in ((1, image), (0, labels)))
        else:
            corner = [int(rng.integers(0, n - c + 1)) for n, c in zip(image.shape, crop, strict=False)]
            window = tuple(slice(start, start + c) for start, c in zip(corner, crop, strict=True))
            image, labels = image[window], labels[window]
        for name in self.flips:
            if not rng.integers(2):
                continue
            if name == "rot90":
                image, labels = (np.swapaxes(array, rank - 2, rank - 1) for array in (image, labels))
            axis = rank - 2 if name == "vflip" else rank - 1
            image, labels = _mirrored(image, axis), np.flip(labels, axis)
        return self._coloured(image, rng), labels.astype(np.int32)

    def _places(self, shape: tuple[int, ...], crop: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Where in the image each pixel of the crop is seen, (rank, *crop)."""
        low, high = np.log(self.scale)
        factor = float(np.exp(rng.uniform(low, high)))
        angle = math.radians(rng.uniform(-self.rotate, self.rotate))
        where = np.stack(np.meshgrid(*(np.arange(c) - (c - 1) / 2 for c in crop), indexing="ij"))
        if self.elastic:
            from scipy import ndimage

            knots = [-(-c // 32) + 3 for c in crop]
            at = np.stack(np.meshgrid(*(np.arange(c) / 32 + 1 for c in crop), indexing="ij"))
            for axis in where:
                axis += ndimage.map_coordinates(rng.normal(0, self.elastic, knots), at, order=3)
        where /= factor
        cosine, sine = math.cos(angle), math.sin(angle)
        where[-2:] = cosine * where[-2] - sine * where[-1], sine * where[-2] + cosine * where[-1]
        for axis, n, c in zip(where, shape, crop, strict=True):
            free = max(0.0, n - c / factor) / 2
            axis += (n - 1) / 2 + rng.uniform(-free, free)
        return where

    def _coloured(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if not self.colour:
            return image
        bright, contrast, *channels = rng.uniform(-self.colour, self.colour, 2 + 3)
        gains = np.exp(contrast + np.array(channels) / 2) if image.shape[-1] == 3 else np.exp(contrast)
        changed = (image.astype(np.float32) - 127.5) * gains + (127.5 + 255 * bright / 2)
        if image.dtype == np.uint8:
            return np.clip(np.rint(changed), 0, 255).astype(np.uint8)
        return changed.astype(np.float32)


def _mirrored(image: np.ndarray, axis: int) -> np.ndarray:
    """`np.flip`; pixels of few bands are copied band by band, for NumPy copies a mirrored row pixel by pixel."""
    if axis != image.ndim - 2 or image.shape[-1] > 4:
        return np.flip(image, axis)
    mirrored = np.empty(image.shape, image.dtype)
    for band in range(image.shape[-1]):
        mirrored[..., band] = np.flip(image[..., band], axis)
    return mirrored


def _seen(array: np.ndarray, where: np.ndarray, order: int, ignore_index: int | None) -> np.ndarray:
    """An array (*spatial) or (*spatial, channels) at the places ``where``: linear (order 1), or the nearest pixel."""
    from scipy import ndimage

    ignoring = order == 0 and ignore_index is not None
    mode = "constant" if ignoring else "mirror" if ignore_index is None else "nearest"
    planes = np.moveaxis(array.reshape(*array.shape[: len(where)], -1), -1, 0)
    at = np.rint(where) if order == 0 else where
    kind = np.int32 if order == 0 else np.float32
    cval = ignore_index if ignoring else 0
    seen = [ndimage.map_coordinates(p.astype(kind), at, order=order, mode=mode, cval=cval) for p in planes]
    result = np.stack(seen, -1).reshape(*where.shape[1:], *array.shape[len(where) :])
    return np.clip(np.rint(result), 0, 255).astype(np.uint8) if array.dtype == np.uint8 and order == 1 else result
