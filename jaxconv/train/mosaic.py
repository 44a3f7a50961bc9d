"""Mosaics of real photographs with exact labels: a segmentation task that needs no download.

The photographs are those inside scikit-image's wheel. Each is cut into three strips along its longer axis, and a split
(train, val, test) only ever sees its own strip. A mosaic is a Voronoi partition with curved borders, each region filled
with a random crop of one photograph's strip, gray, with equal mean and standard deviation and then a random brightness
and contrast, so that the gray value of a pixel alone says little about its class.

Every mosaic is a function of (seed, split, index) alone, so a run that resumes sees the same data.
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from jaxconv.train.augment import Augment
from jaxconv.train.record import Preprocessing

PHOTOGRAPHS = ("brick", "grass", "gravel", "text", "immunohistochemistry", "hubble_deep_field")
STRIPS = {"train": (0.0, 0.5), "val": (0.5, 0.75), "test": (0.75, 1.0)}

_MEAN, _CONTRAST = 128.0, 45.0  # 8-bit values: two standard deviations stay inside 0..255


@functools.cache
def load_photographs(names: tuple[str, ...] = PHOTOGRAPHS) -> dict[str, np.ndarray]:
    """Photographs of scikit-image as gray float32 images (height, width) of 0..255; nobody may write into them.

    >>> load_photographs(("brick",))["brick"].shape
    (512, 512)
    """
    from skimage import color, data

    images = {name: np.asarray(getattr(data, name)()) for name in names}
    gray = {name: 255 * color.rgb2gray(image).astype(np.float32) for name, image in images.items() if image.ndim == 3}
    return {name: gray.get(name, image).astype(np.float32) for name, image in images.items()}


def strip(image: np.ndarray, split: str) -> np.ndarray:
    """The part of an image (height, width) that a split may see: a strip along the longer axis.

    >>> [strip(np.zeros((4, 100)), split).shape[1] for split in STRIPS]
    [50, 25, 25]

    Raises:
        ValueError: no such split.
    """
    if split not in STRIPS:
        raise ValueError(f"no split is called {split!r}; the mosaics have {', '.join(STRIPS)}")
    length = max(image.shape)
    start, stop = (round(fraction * length) for fraction in STRIPS[split])
    return image[start:stop] if image.shape[0] == length else image[:, start:stop]


@dataclasses.dataclass(frozen=True)
class Mosaics:
    """The mosaics of one split.

    Args:
        sources: class name to what fills its regions, (height, width), both at least ``size``.
        split: enters the random seed.
        seed: seed of all mosaics.
        size: height and width of a mosaic.
        sites: fewest and most regions of a mosaic.
        relight: whether each region gets its own brightness and contrast and the result becomes 8-bit; without it the
            sources' values come out unchanged.
        augment: what is done to each mosaic of a batch at random, or None.

    Raises:
        ValueError: a source is smaller than ``size``.

    >>> images, labels = Mosaics.of_photographs("test", size=64).batch(0, 2)
    >>> images.shape, images.dtype, labels.shape, labels.dtype
    ((2, 64, 64, 1), dtype('uint8'), (2, 64, 64), dtype('int32'))
    """

    sources: Mapping[str, np.ndarray]
    split: str
    seed: int = 0
    size: int = 96
    sites: tuple[int, int] = (3, 6)
    relight: bool = True
    augment: Augment | None = None

    def __post_init__(self):
        for name, image in self.sources.items():
            if min(image.shape) < self.size:
                raise ValueError(
                    f"{name}: the {self.split} strip is {image.shape}, smaller than mosaics of {self.size}"
                )

    @classmethod
    def of_photographs(cls, split: str, *, seed: int = 0, size: int = 96, augment: Augment | None = None) -> "Mosaics":
        """The mosaics of scikit-image's photographs."""
        strips = {name: strip(image, split) for name, image in load_photographs().items()}
        standard = {name: (image - image.mean()) / image.std() for name, image in strips.items()}
        return cls(standard, split, seed, size, augment=augment)

    def batch(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Mosaics ``start .. start + count - 1``: images (count, size, size, 1) and labels (count, size, size)."""
        images, labels = zip(*map(self.example, range(start, start + count)), strict=True)
        return np.stack(images), np.stack(labels)

    def example(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Mosaic number ``index`` as a training example, (size, size, 1), and its labels."""
        image, labels = self.mosaic(index)
        if self.augment is None:
            return image[..., None], labels
        rng = np.random.default_rng([self.seed, 1, index])
        return self.augment.example(image[..., None], labels, labels.shape, rng, None)

    def names(self, start: int, count: int) -> list[str]:
        """What `batch` makes."""
        return [f"{self.split} mosaic {index}" for index in range(start, start + count)]

    def mosaic(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Mosaic number ``index``: its image and its labels, (size, size) each."""
        rng = np.random.default_rng([self.seed, *self.split.encode(), index])
        sources = list(self.sources.values())
        count = min(int(rng.integers(self.sites[0], self.sites[1] + 1)), len(sources))
        chosen = rng.permutation(len(sources))[:count]
        labels = chosen[self._regions(rng, count)].astype(np.int32)
        image = np.empty((self.size, self.size), sources[0].dtype)
        for cls in chosen:
            inside = labels == cls
            image[inside] = self._fill(rng, sources[cls])[inside]
        return (np.clip(np.rint(image), 0, 255).astype(np.uint8) if self.relight else image), labels

    def _regions(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Index of the nearest of ``count`` sites, seen through a smooth random displacement of the plane."""
        axis = np.linspace(0, 1, self.size, dtype=np.float32)
        plane = np.stack(np.meshgrid(axis, axis, indexing="ij"))  # (2, size, size)
        waves, phases = rng.normal(size=(4, 2)) * 2 * np.pi, rng.uniform(0, 2 * np.pi, size=(2, 4))
        angles = np.tensordot(waves, plane, axes=1)  # (4, size, size)
        bent = plane + 0.03 * np.sin(angles[None] + phases[..., None, None]).sum(1)
        sites = rng.uniform(0, 1, size=(count, 2, 1, 1))
        return ((bent[None] - sites) ** 2).sum(1).argmin(0)

    def _fill(self, rng: np.random.Generator, source: np.ndarray) -> np.ndarray:
        """A random crop of a source, turned and mirrored at random, with its own brightness and contrast."""
        row, column = (int(rng.integers(0, n - self.size + 1)) for n in source.shape)
        crop = source[row : row + self.size, column : column + self.size]
        crop = np.rot90(crop, int(rng.integers(4)))
        crop = crop[:, ::-1] if rng.integers(2) else crop
        if not self.relight:
            return crop
        brightness, contrast = rng.normal(0, 20), np.exp(rng.normal(0, 0.3))
        return _MEAN + brightness + _CONTRAST * contrast * crop


def mosaic_preprocessing() -> Preprocessing:
    """The record of a network trained on mosaics: gray, roughly mean 0 and standard deviation 1."""
    return Preprocessing(class_names=PHOTOGRAPHS, channels=1, mean=(_MEAN / 255,), std=(_CONTRAST / 255,))
