"""Images and label maps in folders: ``FOLDER/SPLIT/*.png`` beside ``FOLDER/SPLITannot/*.png``."""

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxconv.train.record import Colour, Preprocessing, default_palette

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


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
    # Names that begin with a dot are no images: macOS leaves ._NAME beside each file on other disks.
    files = sorted(p for p in images.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not files:
        raise FileNotFoundError(f"folder {images} holds no image ({', '.join(SUFFIXES)})")
    pairs = [(path, annotations / f"{path.stem}.png") for path in files]
    for image, label in pairs:
        if not label.is_file():
            raise FileNotFoundError(f"label map {label} is missing (for {image})")
    return pairs


def _open(path: Path, what: str) -> Any:
    """The decoded image, turned as its EXIF orientation says."""
    from PIL import Image, ImageOps

    if not path.is_file():
        raise FileNotFoundError(f"{what} {path} does not exist")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, but below the limit
            with Image.open(path) as image:
                image.load()
                turned = ImageOps.exif_transpose(image)
                turned.format = image.format
                return turned
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{what} {path} is refused: {error}; if it is genuine, cut it into tiles, or raise "
            f"PIL.Image.MAX_IMAGE_PIXELS"
        ) from None
    except Exception as error:  # decoders raise whatever they stumble over
        reason = str(error).split("\n")[0] or type(error).__name__
        raise ValueError(f"{what} {path} cannot be read: {reason}") from None


def read_image(path: str | Path, channels: int = 3, value_range: tuple[float, float] | None = None) -> np.ndarray:
    """Reads an image as (height, width, channels), gray (1) or RGB (3), in units of 8 bits: black is 0, white 255.

    8-bit files come as uint8, others as float32 with all of their precision: 16-bit values v as ``v * 255 / 65535``,
    floats of 0..1 as ``255 * v``.

    Args:
        path: of the file; its EXIF orientation is honoured.
        channels: 1 or 3.
        value_range: (black, white) in the file's own values, where they are others (12 bits: (0, 4095)).

    Raises:
        FileNotFoundError, ValueError: missing, unreadable, or floats outside of 0..1 without a ``value_range``; the
            message names the file.
    """
    image = _open(Path(path), "image")
    deep = image.mode == "F" or image.mode.startswith("I")
    if not deep:
        image = image.convert("L" if channels == 1 else "RGB")
        pixels = np.asarray(image).reshape(image.height, image.width, channels)
        return pixels if value_range is None else stretched(pixels, value_range)
    pixels = np.asarray(image).astype(np.float32)[..., None]
    low, high = float(np.min(pixels, initial=0)), float(np.max(pixels, initial=0))
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    white = 1.0 if image.mode == "F" else 65535.0
    if not np.isfinite(pixels).all():
        raise ValueError(f"image {path} holds values that are not finite")
    if value_range is None and not (sixteen or (image.mode == "F" and low >= 0 and high <= 1)):
        raise ValueError(
            f"image {path} holds values {low:g}..{high:g} of more than 8 bits; say which are black and white, as --set "
            f"value_range=({low:g},{high:g})"
        )
    pixels = stretched(pixels, value_range or (0.0, white))
    return np.repeat(pixels, channels, axis=-1)


def stretched(pixels: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Pixels in units of 8 bits, float32, from values whose black and white are ``value_range``."""
    black, white = value_range
    return ((pixels.astype(np.float32) - np.float32(black)) * np.float32(255 / (white - black))).astype(np.float32)


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
    image, labels = read_image(image_path, record.channels, record.value_range), read_labels(label_path)
    if image.shape[:2] != labels.shape:
        raise ValueError(f"label map {label_path} is {labels.shape}, its image {image_path} {image.shape[:2]}")
    return image, record.classes_of(labels, f"label map {label_path}")


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes (height, width, channels) to ``size`` bilinearly (antialiased when shrinking)."""
    from PIL import Image

    if image.shape[:2] == tuple(size):
        return image
    if image.dtype != np.uint8:  # Pillow has floats for one channel only
        planes = [
            Image.fromarray(image[..., c]).resize(size[::-1], Image.Resampling.BILINEAR) for c in range(image.shape[2])
        ]
        return np.stack([np.asarray(plane) for plane in planes], axis=-1)
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

    A name may hold spaces; one that ends in a number needs its colour.

    Raises:
        ValueError: a line is neither; the message names file and line.
    """
    path = Path(folder) / "classes.txt"
    if not path.is_file():
        return None
    names: list[str] = []
    colours: list[Colour] = []
    try:
        text = path.read_text(encoding="utf-8-sig")  # with the mark that Windows puts before it, or without
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from None
    lines = [line.split() for line in text.splitlines() if line.strip()]
    for number, (words, spare) in enumerate(zip(lines, default_palette(len(lines)), strict=True), 1):
        coloured = len(words) > 3 and all(w.isascii() and w.isdigit() and int(w) < 256 for w in words[-3:])
        if not coloured and words[-1].isdigit():
            raise ValueError(f"{path}, line {number}: {' '.join(words)!r} is neither NAME nor NAME RED GREEN BLUE")
        names.append(" ".join(words[:-3] if coloured else words))
        colours.append((int(words[-3]), int(words[-2]), int(words[-1])) if coloured else spare)
    return tuple(names), tuple(colours)


def describe_folder(
    folder: str | Path,
    split: str,
    ignore_index: int | None,
    channels: int,
    size_multiple: int = 1,
    *,
    labels: Mapping[int, str] | None = None,
    value_range: tuple[float, float] | None = None,
) -> Preprocessing:
    """The record for a network trained on a folder: names from ``labels`` (value in the label maps -> name), from
    classes.txt, or as many classes as labels occur.

    Raises:
        ValueError: nothing could be learned from the labels, or they look like something else than classes; the message
            names the flag that mends it.
    """
    pairs = find_pairs(folder, split)
    where = Path(folder) / f"{split}annot"
    values: tuple[int, ...] | None = None
    named = read_class_names(folder)
    if labels is not None:
        values = tuple(labels)
        named = (
            tuple(labels.values()),
            named[1] if named and len(named[1]) == len(labels) else default_palette(len(labels)),
        )
    present = _present([label for _, label in pairs], ignore_index)
    if not present:
        raise ValueError(f"{where}: every pixel has the ignored label {ignore_index}; nothing can be learned")
    if named is None:
        count = max(present) + 1
        listed = ",".join(f"{value}:NAME{place}" for place, value in enumerate(present[:8]))
        if count > max(2 * len(present), 2):
            raise ValueError(
                f"{where} holds the labels "
                f"{', '.join(map(str, present[:8]))}{', ...' if len(present) > 8 else ''}, not "
                f"0..{len(present) - 1}: say what they mean, as --labels {listed}, or in {Path(folder) / 'classes.txt'}"
            )
        named = tuple(f"class{i}" for i in range(count)), default_palette(count)
    if len(present) == 1:
        raise ValueError(
            f"{where}: every pixel that is not ignored has the label {present[0]}; nothing can be learned"
            + (f" (ignored: {ignore_index})" if ignore_index is not None else "")
        )
    return Preprocessing(
        class_names=named[0],
        palette=named[1],
        ignore_index=values.index(ignore_index) if values and ignore_index in values else ignore_index,
        channels=channels,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        size_multiple=size_multiple,
        label_values=values,
        value_range=value_range,
    )


def check_split(pairs: list[tuple[Path, Path]], record: Preprocessing) -> None:
    """Refuses a split with an illegal label, or without a pixel that counts, before a network is trained for it."""
    counted = False
    for _, label in pairs:
        classes = record.classes_of(read_labels(label), f"label map {label}")
        counted = counted or bool((classes != record.ignore_index).any())
    if not counted:
        raise ValueError(f"{pairs[0][1].parent}: every pixel has the ignored label; nothing can be scored")


def image_sizes(pairs: list[tuple[Path, Path]]) -> list[tuple[int, int]]:
    """The different (height, width) of a split's label maps, which are those of its images, smallest first."""
    from PIL import Image

    sizes = set()
    for _, label in pairs:
        try:
            with Image.open(label) as image:
                sizes.add((image.height, image.width))
        except Exception:  # named where it is read
            continue
    return sorted(sizes)


def _present(paths: list[Path], ignore_index: int | None) -> list[int]:
    found: set[int] = set()
    for path in paths:
        found |= set(np.unique(read_labels(path)).tolist())
    return sorted(found - {ignore_index})


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
        images = [image for image, _ in pairs]
        return np.stack(images).astype(np.result_type(*images), copy=False), np.stack([labels for _, labels in pairs])

    def names(self, start: int, count: int) -> list[str]:
        """The files that `batch` reads its images from."""
        return [str(self._pair(index)[0]) for index in range(start, start + count)]

    def _pair(self, index: int) -> tuple[Path, Path]:
        epoch, place = divmod(index, len(self.pairs))
        order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.pairs))
        return self.pairs[order[place]]

    def example(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Training example ``index``: each pass over the images has its own random order."""
        path, label_path = self._pair(index)
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
