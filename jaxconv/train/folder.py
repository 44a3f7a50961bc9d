"""Images and label maps in folders: ``FOLDER/SPLIT/*.png`` beside ``FOLDER/SPLITannot/*.png``."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxconv.train.arrays import ARRAYS, TIFF, name_of
from jaxconv.train.augment import Augment
from jaxconv.train.config import TrainConfig
from jaxconv.train.crops import Crops
from jaxconv.train.reading import is_colour, label_counts, read_image, read_labels
from jaxconv.train.record import COLOUR, Colour, Preprocessing, default_palette, told_label, told_list

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", *TIFF, ".webp", *ARRAYS)
LABEL_SUFFIXES = (".png", *TIFF, ".bmp", *ARRAYS)  # what keeps every value


def image_files(folder: Path) -> list[Path]:
    """The images in a folder, sorted by name; a FileNotFoundError where there is none."""
    # Names that begin with a dot are no images: macOS leaves ._NAME beside each file on other disks.
    files = sorted(p for p in folder.iterdir() if p.name.lower().endswith(SUFFIXES) and not p.name.startswith("."))
    if not files:
        raise FileNotFoundError(f"folder {folder} holds no image ({', '.join(SUFFIXES)})")
    return files


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
    pairs: dict[Path, Path] = {}  # label map -> image
    for image in image_files(images):
        name = name_of(image)
        there = [p for p in (annotations / f"{name}{suffix}" for suffix in LABEL_SUFFIXES) if p.is_file()]
        if not there:
            raise FileNotFoundError(f"label map {annotations / name}.png is missing (for {image})")
        if len(there) > 1:
            raise ValueError(f"image {image} has two label maps, {there[0].name} and {there[1]}; remove one")
        if there[0] in pairs:
            raise ValueError(f"images {pairs[there[0]]} and {image} share the label map {there[0]}; rename one")
        pairs[there[0]] = image
    return [(image, label) for label, image in pairs.items()]


def read_pair(image_path: Path, label_path: Path, record: Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Reads an image and its label map and checks that they fit together and the labels are legal."""
    image = read_image(image_path, record.channels, record.value_range, record.rank)
    labels = read_labels(label_path, record.colours, record.rank)
    if image.shape[:-1] != labels.shape[: record.rank]:
        raise ValueError(f"label map {label_path} is {labels.shape}, its image {image_path} {image.shape[:-1]}")
    check_masks(label_path, sum(labels.shape[record.rank :]), record)
    return image, record.classes_of(labels, f"label map {label_path}")


def checked_pair(image: Any, labels: Any, record: Preprocessing, source: str) -> tuple[np.ndarray, np.ndarray]:
    """An example of a source of one's own, held against the record; ``source`` names it."""
    image, labels = np.asarray(image), np.asarray(labels)
    axes = "h, w" if record.rank == 2 else "d, h, w"
    fits = image.shape[:-1] == labels.shape[: record.rank] and labels.ndim == record.rank + record.multi_label
    if not fits or image.ndim != record.rank + 1 or image.shape[-1] != record.channels or not image.size:
        raise ValueError(
            f"{source} is an image {image.shape} with labels {labels.shape}; needed are ({axes}, {record.channels}) "
            f"and ({axes}{', classes' if record.multi_label else ''})"
        )
    if image.dtype not in (np.uint8, np.float32) or labels.dtype.kind not in "iu":
        raise ValueError(f"{source} is {image.dtype} with labels {labels.dtype}; needed are uint8 or float32, integers")
    if image.dtype == np.float32 and not np.isfinite(image).all():
        raise ValueError(f"{source} holds values that are not finite")
    return image, record.classes_of(labels.astype(np.int32), source)


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


def describe_folder(config: TrainConfig) -> Preprocessing:
    """The record for a network trained on the folder ``config.data``: names from ``config.labels``, from classes.txt,
    or as many classes as labels occur. The name "-" means that pixels of its value are ignored. Where the first label
    map has a mask for each class, names are those of masks, from 0 on.

    Raises:
        ValueError: nothing could be learned from the labels, or they look like something else than classes; the message
            names the flag that mends it.
    """
    folder, rank = Path(config.data or ""), len(config.crop)
    ignore_index, channels = config.ignore_index, config.channels
    pairs = find_pairs(folder, config.split)
    where = folder / f"{config.split}annot"
    named = read_class_names(folder)
    meant = dict(config.labels or {})
    masks = 0 if is_colour(pairs[0][1]) else len(label_counts(pairs[0][1], False, rank)[2])
    if masks and meant:
        if sorted(meant) != list(range(masks)) or "-" in meant.values():
            raise ValueError(
                f"label map {pairs[0][1]} holds {masks} masks: name them, as --labels 0:NAME0,1:NAME1, ..."
            )
        named, meant = (tuple(meant[i] for i in range(masks)), default_palette(masks)), {}
    elif masks and named is not None and len(named[0]) != masks:
        raise ValueError(f"label map {pairs[0][1]} holds {masks} masks; classes.txt has {len(named[0])} names")
    for value in [value for value, name in meant.items() if name == "-"]:
        ignore_index, _ = value, meant.pop(value)
    values = tuple(meant) or None
    colours = any(value >= COLOUR for value in values or ())
    if values is None and named is not None and is_colour(pairs[0][1]):  # the colours that classes.txt gives
        values, colours = tuple(COLOUR + r * 65536 + g * 256 + b for r, g, b in named[1]), True
    elif values is not None:
        taken = tuple(((v >> 16) & 255, (v >> 8) & 255, v & 255) for v in values) if colours else None
        spare = named[1] if named and len(named[1]) == len(values) else default_palette(len(values))
        named = tuple(meant.values()), taken or spare
    elif is_colour(pairs[0][1]):
        found = _present([label for _, label in pairs if is_colour(label)], ignore_index, colours=True)[:8]
        listed = ",".join(f"{told_label(value)}:NAME{place}" for place, value in enumerate(found))
        raise ValueError(f"label map {pairs[0][1]} has mode RGB: say what its colours mean, as --labels {listed}")
    present = _present([label for _, label in pairs], ignore_index, colours, rank)
    if not present:
        raise ValueError(f"{where}: every pixel has the ignored label {ignore_index}; nothing can be learned")
    if named is None:
        count = masks or max(present) + 1
        listed = ",".join(f"{value}:NAME{place}" for place, value in enumerate(present[:8]))
        if not masks and count > max(2 * len(present), 2):
            raise ValueError(
                f"{where} holds the labels {told_list(present)}, not 0..{len(present) - 1}: say what they mean, as "
                f"--labels {listed}, or in {folder / 'classes.txt'}"
            )
        named = tuple(f"class{i}" for i in range(count)), default_palette(count)
    if len(present) == 1:
        raise ValueError(
            f"{where}: every pixel that is not ignored has the label {told_label(present[0])}; nothing can be learned"
            + (f" (ignored: {ignore_index})" if ignore_index is not None else "")
        )
    return Preprocessing(
        class_names=named[0],
        palette=named[1],
        ignore_index=values.index(ignore_index) if values and ignore_index in values else ignore_index,
        channels=channels,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        size_multiple=config.size_multiple,
        label_values=values,
        value_range=config.value_range,
        rank=rank,
        multi_label=masks > 0,
    )


def check_labels(label: Path, record: Preprocessing) -> bool:
    """Refuses a label map with an illegal label or other masks; says whether a pixel of it counts."""
    counts, _, masks = label_counts(label, record.colours, record.rank)
    check_masks(label, len(masks), record)
    try:
        classes = record.classes_of(np.array(list(counts)), str(label))
    except ValueError:  # said again with its place
        classes = record.classes_of(read_labels(label, record.colours, record.rank), f"label map {label}")
    return bool((classes != record.ignore_index).any())


def check_masks(label: Path, masks: int, record: Preprocessing) -> None:
    """Refuses a label map that has a mask for each class where others have none, or of other classes."""
    if masks != record.classes * record.multi_label:
        needed = (
            f"{record.classes} masks, as in the first" if record.multi_label else "one class a pixel, as in the first"
        )
        raise ValueError(f"label map {label} holds {masks or 'no'} masks; needed are {needed}")


def _present(paths: list[Path], ignore_index: int | None, colours: bool, rank: int = 2) -> list[int]:
    found: set[int] = set()
    for path in paths:
        found |= set(label_counts(path, colours, rank)[0])
    return sorted(found - {ignore_index})


def folder_crops(
    pairs: list[tuple[Path, Path]], record: Preprocessing, crop: tuple[int, ...], seed: int = 0, augment: str = "hflip"
) -> Crops:
    """The `Crops` of a folder's pairs."""
    names = [str(image) for image, _ in pairs]
    return Crops(names, lambda i: read_pair(*pairs[i], record), record, crop, seed, augment=Augment.of(augment))
