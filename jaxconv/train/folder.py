"""Images and label maps in folders: ``FOLDER/SPLIT/*.png`` beside ``FOLDER/SPLITannot/*.png``."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from jaxconv.train.record import Colour, Preprocessing, default_palette

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def find_pairs(folder: str | Path, split: str) -> list[tuple[Path, Path]]:
    """The images of a split and their label maps, sorted by name.

    Raises:
        FileNotFoundError: a folder or a label map is missing, or there is no image; the message names it.
    """
    root = Path(folder)
    images, annotations = root / split, root / f"{split}annot"
    for path in (root, images, annotations):
        if not path.is_dir():
            raise FileNotFoundError(
                f"folder {path} does not exist; the layout is FOLDER/SPLIT/*.png beside FOLDER/SPLITannot/*.png"
            )
    files = sorted(p for p in images.iterdir() if p.suffix.lower() in _SUFFIXES)
    if not files:
        raise FileNotFoundError(f"folder {images} holds no image ({', '.join(_SUFFIXES)})")
    pairs = [(path, annotations / f"{path.stem}.png") for path in files]
    for image, label in pairs:
        if not label.is_file():
            raise FileNotFoundError(f"label map {label} is missing (for {image})")
    return pairs


def _open(path: Path, what: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise FileNotFoundError(f"{what} {path} does not exist")
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{what} {path} cannot be read: {error}") from None


def read_image(path: str | Path, channels: int = 3) -> np.ndarray:
    """Reads an image as (height, width, channels) uint8, gray (1) or RGB (3).

    Raises:
        FileNotFoundError, ValueError: missing or unreadable; the message names the file.
    """
    image = _open(Path(path), "image").convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(image.height, image.width, channels)


def read_labels(path: str | Path) -> np.ndarray:
    """Reads a label map (one gray or palette channel, the value is the class) as (height, width) int32.

    Raises:
        FileNotFoundError, ValueError: missing, unreadable, or a colour image; the message names the file.
    """
    image = _open(Path(path), "label map")
    if image.mode not in ("L", "P", "1", "I", "I;16"):
        raise ValueError(f"label map {path} has mode {image.mode}; needed is one channel whose value is the class")
    return np.asarray(image).astype(np.int32)


def read_pair(image_path: Path, label_path: Path, record: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Reads an image and its label map and checks that they fit together and the labels are legal."""
    image, labels = read_image(image_path, record.channels), read_labels(label_path)
    if image.shape[:2] != labels.shape:
        raise ValueError(f"label map {label_path} is {labels.shape}, its image {image_path} {image.shape[:2]}")
    record.check_labels(labels, f"label map {label_path}")
    return image, labels


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes (height, width, channels) uint8 to ``size`` bilinearly (antialiased when shrinking)."""
    from PIL import Image

    if image.shape[:2] == tuple(size):
        return image
    squeezed = image[..., 0] if image.shape[-1] == 1 else image
    resized = Image.fromarray(squeezed).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(*size, image.shape[-1])


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a label map (height, width) to ``size``, each pixel to its nearest.

    >>> resize_labels(np.array([[1, 2]]), (2, 4)).tolist()
    [[1, 1, 2, 2], [1, 1, 2, 2]]
    """
    if labels.shape == tuple(size):
        return labels
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, labels.shape, strict=True))
    return labels[rows[:, None], columns[None, :]]


def read_class_names(folder: str | Path) -> tuple[tuple[str, ...], tuple[Colour, ...]] | None:
    """Reads FOLDER/classes.txt, lines of ``NAME`` or ``NAME RED GREEN BLUE``; None if there is no such file.

    Raises:
        ValueError: a line is neither; the message names file and line.
    """
    path = Path(folder) / "classes.txt"
    if not path.is_file():
        return None
    names: list[str] = []
    colours: list[Colour] = []
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, (words, spare) in enumerate(zip(lines, default_palette(len(lines)), strict=True), 1):
        if len(words) not in (1, 4) or not all(w.isdigit() and int(w) < 256 for w in words[1:]):
            raise ValueError(f"{path}, line {number}: {' '.join(words)!r} is neither NAME nor NAME RED GREEN BLUE")
        names.append(words[0])
        colours.append((int(words[1]), int(words[2]), int(words[3])) if words[1:] else spare)
    return tuple(names), tuple(colours)


def describe_folder(
    folder: str | Path, split: str, ignore_index: int | None, channels: int, size_multiple: int = 1
) -> Preprocessing:
    """The record for a network trained on a folder: names from classes.txt, or as many classes as labels occur."""
    pairs = find_pairs(folder, split)
    named = read_class_names(folder)
    if named is None:
        present = np.unique(np.concatenate([np.unique(read_labels(label)) for _, label in pairs]))
        count = int(max(present[present != ignore_index], default=0)) + 1
        if count > 256:
            raise ValueError(
                f"{Path(folder) / (split + 'annot')} holds label {count - 1}, and there is no "
                f"{Path(folder) / 'classes.txt'}: are these label maps whose value is the class?"
            )
        named = tuple(f"class{i}" for i in range(count)), default_palette(count)
    return Preprocessing(
        class_names=named[0],
        palette=named[1],
        ignore_index=ignore_index,
        channels=channels,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        size_multiple=size_multiple,
    )


@dataclasses.dataclass(frozen=True)
class FolderData:
    """Random crops of a split for training, whole images for scoring.

    Args:
        folder: see `find_pairs`.
        split: which images.
        record: what the labels may be and how many channels an image has.
        crop: (height, width) of training crops; smaller images are padded with ``ignore_index`` labels.
        seed: seed of order, crops and mirroring.

    Raises:
        ValueError: ``crop`` is larger than an image and the record has no ignored index (found when it is read).
    """

    pairs: list[tuple[Path, Path]]
    record: Preprocessing
    crop: tuple[int, int]
    seed: int = 0

    def batch(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Training examples ``start .. start + count - 1``: a function of (seed, index) alone."""
        pairs = [self.example(index) for index in range(start, start + count)]
        return np.stack([image for image, _ in pairs]), np.stack([labels for _, labels in pairs])

    def example(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Training example ``index``: each pass over the images has its own random order."""
        epoch, place = divmod(index, len(self.pairs))
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.pairs))
        path, label_path = self.pairs[order[place]]
        image, labels = read_pair(path, label_path, self.record)
        rng = np.random.default_rng([self.seed, 1, index])
        image, labels = self._pad(image, labels, path)
        top, left = (int(rng.integers(0, n - c + 1)) for n, c in zip(labels.shape, self.crop, strict=True))
        window = np.s_[top : top + self.crop[0], left : left + self.crop[1]]
        flip = np.s_[:, :: -1 if rng.integers(2) else 1]
        return image[window][flip], labels[window][flip]

    def _pad(self, image: np.ndarray, labels: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
        lacking = [max(0, c - n) for c, n in zip(self.crop, labels.shape, strict=True)]
        if not any(lacking):
            return image, labels
        if self.record.ignore_index is None:
            raise ValueError(
                f"image {path} is {labels.shape}, smaller than crops of {self.crop}; choose a smaller crop, or an "
                "ignore_index to pad with"
            )
        pads = [(0, n) for n in lacking]
        return np.pad(image, [*pads, (0, 0)], "edge"), np.pad(labels, pads, constant_values=self.record.ignore_index)
